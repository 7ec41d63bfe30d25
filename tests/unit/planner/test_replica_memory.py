"""What fits a replica: capacity by hand, and a reason for each design that cannot be."""

import pytest

from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.coefficients import built_in_coefficients
from planner.hardware.find_model import find_model
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_memory import (
    design_obstacle,
    device_weight_bytes,
    kv_capacity_tokens,
)
from planner.speed.replica_speed import replica_speed

CATALOGUE = built_in_catalogue()


def _design(gpu, model, **fields):
    return ReplicaDesign(CATALOGUE.gpu(gpu), find_model(model, CATALOGUE), **fields)


def test_capacity_by_hand():
    """Llama-2-7B on one A10G.

    Memory 23028 MiB x 0.9 = 21,731,891,773 B; weights 13,476,831,232 B; activations
    2048 x 4096 x 16 x 2 + 256 x 32000 x 4 = 301,203,456 B; a token 2 x 32 x 4096 x 2 = 524,288 B.
    """
    design = _design("A10G", "meta-llama/Llama-2-7b-hf")
    free = 23028 * 2**20 * 0.9 - 2 * 6_738_415_616 - 301_203_456
    assert kv_capacity_tokens(design) == int(free / 524_288) == 15_170


def test_the_cache_divides_down_to_one_head():
    """Eight devices share eight key-value heads; sixteen hold no more than eight each did."""
    at_eight = _design("A100-80GB", "meta-llama/Llama-3.1-70B-Instruct", tensor_parallel=8)
    at_sixteen = _design("A100-80GB", "meta-llama/Llama-3.1-70B-Instruct", tensor_parallel=16)
    assert at_eight.kv_shard_fraction == at_sixteen.kv_shard_fraction == 1 / 8
    assert kv_capacity_tokens(at_sixteen) > kv_capacity_tokens(at_eight)


def test_latent_attention_is_kept_whole_on_every_device():
    """DeepSeek's compressed cache has one head: tensor parallelism does not divide it."""
    design = _design("H200", "deepseek-ai/DeepSeek-V2-Lite-Chat", tensor_parallel=4)
    assert design.kv_shard_fraction == 1


def test_stages_divide_layers_and_tables():
    """The fuller of two stages has half the layers and one of the two tables."""
    one = _design("A100-80GB", "meta-llama/Llama-2-7b-hf")
    two = _design("A100-80GB", "meta-llama/Llama-2-7b-hf", pipeline_parallel=2)
    assert device_weight_bytes(two) == pytest.approx(device_weight_bytes(one) / 2)


@pytest.mark.parametrize(
    ("gpu", "model", "fields", "kind", "text"),
    [
        (
            "L4",
            "meta-llama/Llama-3.1-70B-Instruct",
            {},
            "memory",
            "weights 141 GB do not fit 1 x L4 of 24 GB (90% usable)",
        ),
        (
            "A100-80GB",
            "meta-llama/Llama-3.1-70B-Instruct",
            {"tensor_parallel": 2, "memory_fraction": 0.825},
            "memory",
            "leave no room for a cache on 2 x A100-80GB of 86 GB",
        ),
        (
            "L4",
            "Qwen/Qwen2.5-0.5B-Instruct",
            {"tensor_parallel": 4},
            "parallelism",
            "tensor_parallel 4 does not divide the 14 query heads of Qwen/Qwen2.5-0.5B-Instruct; "
            "take one of 1, 2, 7, 14",
        ),
        (
            "L4",
            "Qwen/Qwen2.5-0.5B-Instruct",
            {"tensor_parallel": 7},
            "parallelism",
            "tensor_parallel 7 and the 2 key-value heads",
        ),
        (
            "L4",
            "meta-llama/Llama-2-7b-hf",
            {"pipeline_parallel": 33},
            "parallelism",
            "pipeline_parallel 33 exceeds the 32 layers",
        ),
        (
            "T4",
            "Qwen/Qwen2.5-0.5B-Instruct",
            {},
            "dtype",
            "T4 has no bfloat16 units; take float16 or float32 or int8 weights",
        ),
    ],
)
def test_what_cannot_be_says_why(gpu, model, fields, kind, text):
    """A design that cannot exist is an outcome with its reason, and no speed."""
    design = _design(gpu, model, **fields)
    obstacle = design_obstacle(design)
    assert obstacle is not None
    assert obstacle.kind == kind
    assert text in obstacle.text
    assert replica_speed(design, built_in_coefficients()) == obstacle


def test_what_fits_has_a_speed():
    """The bundle carries the design's limits and the model's context."""
    speed = replica_speed(
        _design("L4", "meta-llama/Llama-2-7b-hf", max_sequences=64), built_in_coefficients()
    )
    assert not isinstance(speed, Obstacle)
    assert (speed.max_sequences, speed.max_batched_tokens) == (64, 2048)
    assert speed.max_context_tokens == 4096
