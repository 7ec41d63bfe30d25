"""The command lines of replicas: exactly the planned arguments, in the engine's own flags."""

from collections.abc import Mapping
from typing import Literal

from planner.errors import RenderError
from planner.fleet.fleet_plan import FleetPlan, PlannedModel, PlannedReplicas
from planner.hardware.gpu_spec import DType
from planner.hardware.model_spec import ModelSpec
from planner.render.devices import Device
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_memory import kv_capacity_tokens

Engine = Literal["vllm", "motley"]

_LONG_FLAGS = {
    "-tp": "--tensor-parallel-size",
    "-pp": "--pipeline-parallel-size",
    "-q": "--quantization",
}
"""Short spellings of planned flags; vLLM also takes underscores for dashes, and `-tp4` for `-tp 4`."""

_FLOATS: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def vllm_arguments(model: PlannedModel, row: PlannedReplicas) -> tuple[str, ...]:
    """Return the words after `vllm serve`, without address and port.

    Flags are those of vLLM 0.32. Weights planned in fp8 are quantised while loading; int8 and int4
    need a checkpoint that is quantised already, which vLLM recognises by itself.

    Raises:
        RenderError: If vLLM cannot run what was planned, or an own argument repeats a planned one.
    """
    planned = vllm_flags(
        model.name,
        weight_dtype=row.weight_dtype,
        kv_cache_dtype=_vllm_kv_dtype(row),
        tensor_parallel=row.tensor_parallel,
        pipeline_parallel=row.pipeline_parallel,
        max_context_tokens=row.max_context_tokens,
        memory_fraction=row.memory_fraction,
        max_sequences=row.max_sequences,
        max_batched_tokens=row.max_batched_tokens,
    )
    return _words(model, row, planned)


def vllm_flags(
    name: str,
    *,
    weight_dtype: DType | None = None,
    kv_cache_dtype: str | None = None,
    tensor_parallel: int | None = None,
    pipeline_parallel: int | None = None,
    max_context_tokens: int | None = None,
    memory_fraction: float | None = None,
    max_sequences: int | None = None,
    max_batched_tokens: int | None = None,
) -> dict[str, object]:
    """Return vLLM's flags for a model served as `name`; None: vLLM's default, the flag is left out."""
    return {
        "--served-model-name": name,
        "--tensor-parallel-size": tensor_parallel,
        "--pipeline-parallel-size": pipeline_parallel,
        "--dtype": weight_dtype if weight_dtype in _FLOATS else None,
        "--quantization": "fp8" if weight_dtype == "fp8" else None,
        "--kv-cache-dtype": kv_cache_dtype,
        "--max-model-len": max_context_tokens,
        "--gpu-memory-utilization": memory_fraction,
        "--max-num-seqs": max_sequences,
        "--max-num-batched-tokens": max_batched_tokens,
    }


def flag_words(flags: Mapping[str, object]) -> list[str]:
    """Return flags with values as words; those without one are left out."""
    return [
        word for flag, value in flags.items() if value is not None for word in (flag, str(value))
    ]


def motley_arguments(
    model: PlannedModel, row: PlannedReplicas, device: Device | None, plan: FleetPlan
) -> tuple[str, ...]:
    """Return the words after `motley serve`, without address and port.

    It has no flag for the longest context and the tokens of a step, and keeps its cache in the
    format of the weights.

    Raises:
        RenderError: If it cannot run what was planned, or an own argument repeats a planned one.
    """
    where = f"{row.model} on {row.offer}"
    if row.devices_per_replica > 1:
        raise RenderError(
            f"{where}: motley serve runs on one device, planned are {row.devices_per_replica}; "
            "take --engine vllm"
        )
    if row.weight_dtype not in (None, *_FLOATS) or row.kv_dtype not in (None, row.weight_dtype):
        raise RenderError(
            f"{where}: motley serve cannot keep weights as {row.weight_dtype} with a cache of "
            f"{row.kv_dtype}; take --engine vllm"
        )
    is_gpu = device is not None and device.vendor != "cpu"
    planned = {
        "--served-model-name": model.name,
        "--target-device": "cuda:0" if is_gpu else "cpu",
        "--dtype": row.weight_dtype,
        "--kv-memory": motley_kv_bytes(row, device, plan.model_specs.get(model.name)),
        "--max-sequences": row.max_sequences,
    }
    return _words(model, row, planned)


def motley_kv_bytes(
    row: PlannedReplicas, device: Device | None, spec: ModelSpec | None
) -> int | None:
    """Return the memory the plan counts on for the cache, or None where it does not know it."""
    if device is None or spec is None or row.weight_dtype is None or row.kv_dtype is None:
        return None
    design = ReplicaDesign(
        device.spec,
        spec,
        weight_dtype=row.weight_dtype,
        kv_dtype=row.kv_dtype,
        memory_fraction=row.memory_fraction,
        max_sequences=row.max_sequences,
        max_batched_tokens=row.max_batched_tokens,
    )
    return int(kv_capacity_tokens(design) * spec.kv_bytes_per_token(row.kv_dtype)) or None


def _vllm_kv_dtype(row: PlannedReplicas) -> str | None:
    if row.kv_dtype is None or row.kv_dtype == "fp8":
        return row.kv_dtype
    if row.kv_dtype == row.weight_dtype:
        return "auto"
    if row.kv_dtype in ("bfloat16", "float16"):
        return row.kv_dtype
    raise RenderError(
        f"{row.model} on {row.offer}: vLLM keeps no cache of {row.kv_dtype} beside weights of "
        f"{row.weight_dtype}; plan with kv_dtype fp8 or bfloat16"
    )


def _words(
    model: PlannedModel, row: PlannedReplicas, planned: Mapping[str, object]
) -> tuple[str, ...]:
    assert model.source is not None, "checked before any target renders"
    own = {_long_flag(word) for word in row.engine_arguments if word.startswith("-")}
    for flag, value in planned.items():
        if flag in own and value is not None:
            raise RenderError(
                f"{row.model} on {row.offer}: engine_arguments repeat {flag}, planned as {value}; "
                "remove one"
            )
    return (model.source, *flag_words(planned), *row.engine_arguments)


def _long_flag(word: str) -> str:
    """Return the flag of an argument in the spelling of the planned ones, without its value."""
    flag = word.partition("=")[0].replace("_", "-")
    short = flag.rstrip("0123456789")
    return _LONG_FLAGS.get(short, flag)
