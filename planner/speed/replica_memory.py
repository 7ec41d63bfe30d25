"""Whether a replica can exist: how its layers divide, and what its memory leaves for the cache."""

import math

from planner.hardware.gpu_spec import DType
from planner.hardware.model_spec import BYTES_PER_PARAMETER
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign

ACTIVATION_WIDTHS = 16
"""Residual-stream widths that a token of the largest step occupies at once: gate, up and their
product are about 4 each, then residual, norm, query, key and value."""


def design_obstacle(design: ReplicaDesign) -> Obstacle | None:
    """Return why the design cannot run at all, or nothing."""
    return _parallelism_obstacle(design) or _dtype_obstacle(design) or _memory_obstacle(design)


def kv_capacity_tokens(design: ReplicaDesign) -> int:
    """Return how many tokens of context the replica's memory holds, 0 where the model does not fit.

    A hard limit: `(memory * memory_fraction - weights - activations) / cache bytes a token`, all
    of the fullest device.
    """
    free = _usable_bytes(design) - device_weight_bytes(design) - _activation_bytes(design)
    per_token = (
        design.model.kv_bytes_per_token(design.kv_dtype)
        * design.stage_fraction
        * design.kv_shard_fraction
    )
    return max(0, math.floor(free / per_token))


def device_weight_bytes(design: ReplicaDesign) -> float:
    """Return the weights of the fullest device: its stage's layers and, at an end, a table."""
    model, dtype = design.model, design.weight_dtype
    layers = model.layer_parameters * BYTES_PER_PARAMETER[dtype]
    tables = model.weight_bytes(dtype) - layers
    if design.pipeline_parallel > 1 and not model.is_embedding_tied:
        tables /= 2
    return (layers * design.stage_fraction + tables) / design.tensor_parallel


def _usable_bytes(design: ReplicaDesign) -> float:
    return design.gpu.memory_bytes * design.memory_fraction


def _activation_bytes(design: ReplicaDesign) -> float:
    model = design.model
    values = design.max_batched_tokens * model.hidden_size * ACTIVATION_WIDTHS
    vocabulary = model.vocabulary_parameters // model.hidden_size
    # Scores of the vocabulary are kept in float32, one row a sequence.
    scores = design.max_sequences * vocabulary * BYTES_PER_PARAMETER["float32"]
    return (values * design.activation_bytes_per_value + scores) / design.tensor_parallel


def _parallelism_obstacle(design: ReplicaDesign) -> Obstacle | None:
    model, degree = design.model, design.tensor_parallel
    if model.num_attention_heads % degree:
        degrees = [n for n in range(1, 17) if model.num_attention_heads % n == 0]
        return Obstacle(
            "parallelism",
            f"tensor_parallel {degree} does not divide the {model.num_attention_heads} query heads "
            f"of {model.name}; take one of {', '.join(map(str, degrees))}",
        )
    heads = model.num_key_value_heads
    if degree % heads and heads % degree:
        return Obstacle(
            "parallelism",
            f"tensor_parallel {degree} and the {heads} key-value heads of {model.name} do not "
            "divide one another; take a divisor or a multiple",
        )
    if design.pipeline_parallel > model.num_layers:
        return Obstacle(
            "parallelism",
            f"pipeline_parallel {design.pipeline_parallel} exceeds the {model.num_layers} layers "
            f"of {model.name}; take at most as many",
        )
    return None


def _dtype_obstacle(design: ReplicaDesign) -> Obstacle | None:
    if design.gpu.compute_dtype(design.weight_dtype) is not None:
        return None
    can: list[DType] = sorted(design.gpu.dense_flops_per_second)
    text = f"{design.gpu.name} has no {design.weight_dtype} units; take {' or '.join(can)} weights"
    return Obstacle("dtype", text)


def _memory_obstacle(design: ReplicaDesign) -> Obstacle | None:
    if kv_capacity_tokens(design) >= 1:
        return None
    weights = design.model.weight_bytes(design.weight_dtype)
    devices = f"{design.num_devices} x {design.gpu.name} of {_gigabytes(design.gpu.memory_bytes)}"
    if device_weight_bytes(design) > _usable_bytes(design):
        return Obstacle(
            "memory",
            f"weights {_gigabytes(weights)} do not fit {devices} "
            f"({design.memory_fraction:.0%} usable); take more devices or narrower weights",
        )
    return Obstacle(
        "memory",
        f"weights {_gigabytes(weights)} leave no room for a cache on {devices} "
        f"({design.memory_fraction:.0%} usable); take more devices, narrower weights, "
        "or lower max_batched_tokens",
    )


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.0f} GB"
