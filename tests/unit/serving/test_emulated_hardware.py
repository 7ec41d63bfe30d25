"""The names a user types become one model on one device, or one clear line."""

import pytest

from planner.hardware.catalogue import built_in_catalogue
from planner.speed.step_times import StepBatch
from serving.emulated.config import EmulatedConfig
from serving.emulated.hardware import find_device, find_replica
from serving.errors import ModelError


def _config(**fields):
    given = {"model": "llama-3.1-8b", "hardware": "a100", "served_model_name": "m"}
    return EmulatedConfig(**(given | fields))


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("a100", "A100-80GB"),
        ("A100-40GB", "A100-40GB"),
        ("a100-80gb", "A100-80GB"),
        ("h100", "H100-SXM"),
        ("rtx", "RTX-4090"),
    ],
)
def test_the_beginning_of_a_name_is_its_best_device(word, name):
    """A whole name is that device, a beginning the one with most memory and then bandwidth."""
    assert find_device(word, built_in_catalogue()).name == name


def test_a_replica_has_the_speed_that_plans_count_on():
    """Lone decode steps of an 8B model on an A100 take the weights over the bandwidth reached."""
    replica = find_replica(_config())
    assert replica.design.model.name == "meta-llama/Llama-3.1-8B-Instruct"
    assert replica.vocabulary_size == 128256
    seconds = replica.speed.step_times.step_seconds(StepBatch(0, 0.0, 1, 100))
    weights_seconds = 15.0e9 / (0.8 * 2039e9)
    assert weights_seconds < seconds < weights_seconds + 0.002
    described = replica.described()
    assert (described["gpu"], described["coefficients"]) == ("A100-80GB", "vllm")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"hardware": "z9"}, "no device is called z9"),
        ({"model": "qwen3"}, "no single model is called qwen3; near: Qwen/Qwen3-8B"),
        ({"model": "nope-7b"}, "no model is called nope-7b"),
        ({"hardware": "t4"}, "T4 has no bfloat16 units"),
        ({"hardware": "t4", "weight_dtype": "float16", "kv_dtype": "float16"}, "do not fit"),
        ({"tensor_parallel": 3}, "tensor_parallel 3 does not divide"),
        ({"max_batched_tokens": 8}, "max_batched_tokens is 8"),
        ({"coefficients": "x"}, "no set of coefficients is called x"),
    ],
)
def test_what_cannot_be_emulated_is_one_line(fields, words):
    """The line names the value and what to take instead."""
    with pytest.raises(ModelError) as caught:
        find_replica(_config(**fields))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
