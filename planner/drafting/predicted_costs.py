"""Seconds of one forward over few rows, predicted from data sheets by the step model."""

from planner.drafting.cost_curve import CostCurve
from planner.hardware.coefficients import Coefficients, built_in_coefficients
from planner.hardware.gpu_spec import DType, GpuSpec
from planner.hardware.model_spec import ModelSpec
from planner.speed.replica_design import ReplicaDesign
from planner.speed.step_model import RooflineStepTimes
from planner.speed.step_times import StepBatch

MOST_ROWS = 32
"""Rows of one request that are compared."""

ROUND_TRIP_SECONDS = 1e-4
"""Copies between two devices and the waits for them, once a round. Judgement, not measured: what
crosses is small (ids and masks; 16 KB of hidden state a token for a head of width 4096), so that
two copies with their synchronisation, tens of microseconds each, are nearly all of it."""

_COEFFICIENTS = {"gpu": "vllm", "cpu": "motley-cpu"}


def coefficients_of(gpu: GpuSpec) -> Coefficients:
    """Return the measured distance from the data sheet that fits a kind of device."""
    return built_in_coefficients(_COEFFICIENTS[gpu.kind])


def default_dtype(gpu: GpuSpec) -> DType:
    """Return the format `motley serve` would load weights in: float32 on a CPU, else 16 bits."""
    if gpu.kind == "cpu":
        return "float32"
    return gpu.compute_dtype("int4") or "float32"


def kv_dtype(gpu: GpuSpec, weights: DType) -> DType:
    """Return the format of keys and values: that of the weights, widened where they are quantised."""
    return default_dtype(gpu) if weights in ("fp8", "int8", "int4") else weights


def predicted_curve(
    model: ModelSpec, gpu: GpuSpec, *, dtype: DType, num_requests: int, context_tokens: int
) -> CostCurve:
    """Return the seconds of one forward at the rows of 1 to `MOST_ROWS` for each request.

    Rows are spread evenly over the requests. Weights and each request's keys and values are read
    once, whatever the rows; arithmetic, attention's included, grows with every row.

    Raises:
        ValueError: If the device cannot compute with such weights.
    """
    design = ReplicaDesign(gpu, model, weight_dtype=dtype, kv_dtype=kv_dtype(gpu, dtype))
    times = RooflineStepTimes(design, coefficients_of(gpu))
    counts = sorted({1, *(num_requests * rows for rows in range(1, MOST_ROWS + 1))})
    return CostCurve(
        tuple(counts),
        tuple(times.step_seconds(_step(n, num_requests, context_tokens)) for n in counts),
    )


def _step(rows: int, num_requests: int, context_tokens: int) -> StepBatch:
    sequences = min(rows, num_requests)
    return StepBatch(
        prefill_tokens=0,
        prefill_pairs=float((rows - sequences) * context_tokens),
        decode_sequences=rows,
        decode_context_tokens=sequences * context_tokens,
    )
