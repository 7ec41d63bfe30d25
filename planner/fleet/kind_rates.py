"""The rate of one kind of replica for each request size: stated in the file, or modelled."""

import math
from dataclasses import dataclass

from planner.errors import WorkloadError
from planner.fleet.fleet_models import FleetModel, lengths_of
from planner.fleet.offers import Offer
from planner.hardware.coefficients import Coefficients
from planner.hardware.gpu_spec import GpuSpec
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_speed import ReplicaSpeed, replica_speed
from planner.speed.sustained_rate import LatencyLimits, sustained_rate
from planner.workloads.slo import Slo

TAIL_FRACTION = 0.5
"""Share of the late requests that a percentile allows which planning gives to the longest inputs."""


@dataclass(frozen=True, slots=True)
class KindRate:
    """What one replica holds of one request size."""

    requests_per_second: float
    """0: it cannot serve the size."""
    obstacle: str = ""
    """Why it cannot; empty where it can."""
    binding: str = ""
    """What ends a modelled rate, such as `memory` or `tpot`; empty where that is not known."""
    over_limit: float | None = None
    """How many times its limit a latency is, where that is the obstacle."""


@dataclass(frozen=True, slots=True)
class KindSpeed:
    """How fast one kind of replica is."""

    rates: tuple[KindRate, ...]
    """By request size of the model, those with requests only."""
    speed: ReplicaSpeed | None = None
    """What a replay needs; nothing: only throughputs are known, or it cannot exist."""
    obstacle_to_replay: str = ""
    """Why there is no `speed`, where rates are known all the same."""
    notes: tuple[str, ...] = ()
    """What a reader of a plan with this replica must know."""
    headroom: float = math.inf
    """How many times its rates it was measured to keep pace with; infinite: it was not measured."""


def stated_speed(model: FleetModel, matrix: tuple[tuple[float, ...], ...]) -> KindSpeed:
    """Return the rates that a file states for every cell of the model's grid."""
    flat = [rate for row in matrix for rate in row]
    return KindSpeed(
        tuple(
            KindRate(rate, "" if rate > 0 else "throughput 0")
            for size, rate in zip(model.workload.sizes(), flat, strict=True)
            if size.rate_requests_per_second > 0
        )
    )


def no_speed(model: FleetModel, obstacle: str) -> KindSpeed:
    """Return the rates of a replica that cannot serve the model at all."""
    return KindSpeed(tuple(KindRate(0.0, obstacle) for _ in model.sizes()))


def modelled_speed(
    model: FleetModel,
    offer: Offer,
    gpu: GpuSpec,
    *,
    tensor_parallel: int,
    pipeline_parallel: int,
    coefficients: Coefficients,
) -> KindSpeed:
    """Return the sustained rates of the performance model, and the speed they rest on.

    Raises:
        WorkloadError: If the model states no latency target: without one a rate means nothing.
    """
    if model.config.slo is None:
        raise WorkloadError(
            f"{model.name} has no slo, which the modelled speed of {gpu.name} needs; "
            "add ttft_seconds, tpot_seconds or both"
        )
    design = replica_design(
        model,
        offer,
        gpu,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )
    speed = replica_speed(design, coefficients)
    if isinstance(speed, Obstacle):
        return no_speed(model, speed.text)
    limits = latency_limits(model.config.slo)
    untimed = LatencyLimits(tpot_seconds=limits.tpot_seconds)
    tail = tail_sizes(model)
    rates = []
    for s, (size, largest) in enumerate(zip(model.sizes(), model.largest_tokens(), strict=True)):
        inputs, outputs = lengths_of(size)
        if reason := too_long(largest, speed):
            rates.append(KindRate(0.0, reason))
            continue
        held = sustained_rate(
            speed,
            input_tokens=inputs,
            output_tokens=outputs,
            limits=untimed if s in tail else limits,
        )
        reason, over = (
            (held.obstacle.text, held.obstacle.over_limit) if held.obstacle else ("", None)
        )
        rates.append(KindRate(held.requests_per_second, reason, held.binding, over))
    return KindSpeed(tuple(rates), speed)


def tail_sizes(model: FleetModel) -> frozenset[int]:
    """Return the sizes whose first tokens may come late without the target being missed.

    A percentile lets some requests be late. Those with the longest inputs are the ones that a cheap
    replica cannot answer in time even alone, so planning lets the longest input ranges be late, up
    to `TAIL_FRACTION` of what the percentile allows. The replay judges all requests together.
    """
    slo = model.config.slo
    if slo is None or slo.ttft_seconds is None or slo.ttft_statistic == "mean":
        return frozenset()
    sizes = model.sizes()
    total = sum(size.rate_requests_per_second for size in sizes)
    room = TAIL_FRACTION * (100 - int(slo.ttft_statistic[1:])) / 100 * total
    tail: set[int] = set()
    for end in sorted({size.input_tokens_up_to for size in sizes}, reverse=True):
        members = [s for s, size in enumerate(sizes) if size.input_tokens_up_to == end]
        room -= sum(sizes[s].rate_requests_per_second for s in members)
        if room < 0:
            break
        tail.update(members)
    return frozenset(tail)


def replica_design(
    model: FleetModel, offer: Offer, gpu: GpuSpec, *, tensor_parallel: int, pipeline_parallel: int
) -> ReplicaDesign:
    """Return the replica as it would be deployed."""
    spec = model.spec
    assert spec is not None
    return ReplicaDesign(
        gpu=gpu,
        model=spec.model_copy(update={"max_context_tokens": model.context_tokens}),
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        weight_dtype=model.config.weight_dtype,
        kv_dtype=model.config.cache_dtype,
        memory_fraction=offer.memory_fraction,
        max_sequences=offer.max_sequences,
        max_batched_tokens=offer.max_batched_tokens,
    )


def latency_limits(slo: Slo) -> LatencyLimits:
    """Return a target's limits on means; its percentiles are the replay's business."""
    return LatencyLimits(ttft_seconds=slo.ttft_seconds, tpot_seconds=slo.tpot_seconds)


def too_long(largest_tokens: int, speed: ReplicaSpeed) -> str:
    """Return why a replica cannot take a request of so many tokens; empty where it can."""
    if largest_tokens > speed.max_context_tokens:
        limit = f"the context {speed.max_context_tokens}"
    elif largest_tokens > speed.kv_capacity_tokens:
        limit = f"the cache room for {speed.kv_capacity_tokens}"
    else:
        return ""
    return f"its longest request has {largest_tokens} tokens, {limit}"
