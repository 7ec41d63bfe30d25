"""The performance model: seconds of one step from data sheets, sizes and coefficients.

For each pipeline stage, with its share of the layers and an even share of the batch:

    stage = max(weights / (tp * bandwidth * weight_fraction),  flops / (tp * peak * compute_fraction))
            + cache / (shards * bandwidth * kv_fraction)
            + layers * layer_seconds
            + all-reduces * (hops(tp) * collective_seconds + traffic(tp) * message / (link * link_fraction))
            + crossing the boundary to the next stage, where there is one
    step  = stages * stage + step_seconds

Decoding is affine in the contexts' sum: it enters the cache term alone. Prompts' attention enters
the FLOPs. A pipeline keeps as many batches in flight as it has stages, so its full round, in which
each sequence advances by one step, takes every stage as many times.

Sources: Helix, arXiv 2406.01566 (decode at 0.8 of peak bandwidth); vllm-sr-sim, arXiv 2603.16054
(seconds a layer); Megatron-LM, arXiv 1909.08053 (two all-reduces a layer).
"""

from typing import NamedTuple

from planner.hardware.coefficients import Coefficients
from planner.speed.replica_design import ReplicaDesign
from planner.speed.step_times import StepBatch
from planner.speed.tensor_parallel import ALL_REDUCES_PER_LAYER, all_reduce_hops, all_reduce_traffic


class StageWork(NamedTuple):
    """What one step asks of one pipeline stage, in seconds at the devices' peaks and in counts."""

    weight_seconds: float
    compute_seconds: float
    kv_seconds: float
    link_seconds: float
    layers: float
    hops: float
    """Waits for a neighbour."""


class RooflineStepTimes:
    """`StepTimes` of one replica; give it only designs without a `design_obstacle`."""

    def __init__(self, design: ReplicaDesign, coefficients: Coefficients) -> None:
        """Prepare the sums that no batch changes.

        Raises:
            ValueError: If the device cannot multiply the design's weights.
        """
        gpu, model = design.gpu, design.model
        dtype = gpu.compute_dtype(design.weight_dtype)
        if dtype is None:
            raise ValueError(f"{gpu.name} cannot compute with {design.weight_dtype} weights")
        self._design = design
        self._is_dense = model.expert_parameters == 0
        self._stages = design.pipeline_parallel
        self._layers = design.stage_layers
        self._peak_flops_per_second = design.tensor_parallel * gpu.dense_flops_per_second[dtype]
        self._peak_bytes_per_second = design.tensor_parallel * gpu.bandwidth_bytes_per_second
        self._flops_per_token = model.flops_per_token * design.stage_fraction
        self._head_flops = model.head_flops
        self._flops_per_pair = model.attention_flops_per_pair * design.stage_fraction
        self._dense_weight_seconds = self._weight_seconds_of(1)
        self._kv_seconds_per_token = self._kv_seconds_of_token()
        self._hops, self._link_seconds_per_token = self._communication()
        self._coefficients = coefficients
        self._per_weight = 1 / coefficients.weight_bandwidth_fraction.value
        self._per_compute = 1 / coefficients.compute_fraction.value
        self._per_kv = 1 / coefficients.kv_bandwidth_fraction.value
        self._per_link = 1 / coefficients.link_fraction.value
        self._overhead_seconds = (
            self._layers * coefficients.layer_seconds.value
            + self._hops * coefficients.collective_seconds.value
        )

    def step_seconds(self, batch: StepBatch) -> float:
        """Return the seconds of one step (of one round of the pipeline), above 0."""
        work = self.stage_work(batch)
        reading = work.weight_seconds * self._per_weight
        computing = work.compute_seconds * self._per_compute
        stage = (
            (reading if reading > computing else computing)
            + work.kv_seconds * self._per_kv
            + work.link_seconds * self._per_link
            + self._overhead_seconds
        )
        return self._stages * stage + self._coefficients.step_seconds.value

    def stage_work(self, batch: StepBatch) -> StageWork:
        """Return what the batch's share asks of the fullest stage."""
        stages = self._stages
        tokens = (batch.prefill_tokens + batch.decode_sequences) / stages
        # Of prompts only the last token meets the head, seldom more than one prompt's a step.
        sampled = (batch.decode_sequences + (batch.prefill_tokens > 0)) / stages
        flops = (
            self._flops_per_token * tokens
            + self._flops_per_pair * batch.prefill_pairs / stages
            + self._head_flops * sampled
        )
        weight_seconds = (
            self._dense_weight_seconds if self._is_dense else self._weight_seconds_of(tokens)
        )
        return StageWork(
            weight_seconds,
            flops / self._peak_flops_per_second,
            self._kv_seconds_per_token * batch.decode_context_tokens / stages,
            self._link_seconds_per_token * tokens,
            self._layers,
            self._hops,
        )

    def _weight_seconds_of(self, tokens: float) -> float:
        design = self._design
        head = design.model.vocabulary_parameters * 2.0
        traffic = design.model.weight_traffic_bytes(design.weight_dtype, max(1.0, tokens))
        return ((traffic - head) * design.stage_fraction + head) / self._peak_bytes_per_second

    def _kv_seconds_of_token(self) -> float:
        """Return the time one token of context takes: to read it, or to compute with it."""
        design, model = self._design, self._design.model
        shard_bytes = (
            model.kv_bytes_per_token(design.kv_dtype)
            * design.stage_fraction
            * design.kv_shard_fraction
        )
        reading = shard_bytes / design.gpu.bandwidth_bytes_per_second
        return max(reading, self._flops_per_pair / self._peak_flops_per_second)

    def _communication(self) -> tuple[float, float]:
        """Return the waits for neighbours of one step, and seconds on the link for each token."""
        design = self._design
        all_reduces = ALL_REDUCES_PER_LAYER * design.stage_layers
        hops = all_reduces * all_reduce_hops(design.tensor_parallel)
        messages = all_reduces * all_reduce_traffic(design.tensor_parallel)
        if self._stages > 1:
            hops += 1
            messages += 1
        token_bytes = design.model.hidden_size * design.activation_bytes_per_value
        return hops, messages * token_bytes / design.gpu.interconnect.bytes_per_second
