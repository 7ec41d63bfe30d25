"""Costs of a model that nobody measured: what they must grow with."""

from dataclasses import replace

import pytest

from finetune.local_runs.own_costs import ModelSizes, own_costs, with_measured_times

SIZES = ModelSizes(
    num_layers=2,
    num_query_heads=4,
    num_key_value_heads=2,
    head_size=8,
    width=32,
    vocabulary_size=100,
    num_weights=1000,
    num_trained=1000,
)


def costs(sizes=SIZES, **changes):
    """Return the costs with some settings changed."""
    settings = {
        "name": "toy",
        "max_tokens": 64,
        "is_sharded": False,
        "in_bfloat16": False,
        "is_checkpointed": False,
        "device": "cpu",
    }
    return own_costs(sizes, **(settings | changes))


def test_full_weights_hold_their_moments_and_adapters_do_not():
    """Sixteen bytes a trained float32 weight, four of a frozen one."""
    (full,) = costs().model_states
    (frozen,) = costs(replace(SIZES, num_trained=10)).model_states
    assert full.num_bytes == 16_000
    assert frozen.num_bytes == 4_000 + 120


@pytest.mark.parametrize(("is_sharded", "share"), [(True, 0.25), (False, 1.0)])
def test_sharded_states_are_spread(is_sharded, share):
    """A device of four holds a quarter where weights are sharded, and all where they are not."""
    held = costs(is_sharded=is_sharded).state_bytes(max_tokens=64, num_devices=4)
    assert held == pytest.approx(16_000 * share)


def test_checkpointing_trades_memory_for_arithmetic():
    """Less is kept of a token, and a forward pass more is computed."""
    plain, kept_less = costs(), costs(is_checkpointed=True)
    assert kept_less.activation_bytes_per_token < plain.activation_bytes_per_token
    assert kept_less.linear_seconds_per_token / plain.linear_seconds_per_token == pytest.approx(
        4 / 3
    )


def test_a_gpu_is_faster_and_bfloat16_smaller():
    """Times and bytes fall where they should."""
    assert costs(device="cuda").linear_seconds_per_token < costs().linear_seconds_per_token
    narrow = costs(in_bfloat16=True)
    assert narrow.activation_bytes_per_token < costs().activation_bytes_per_token
    assert narrow.exchanged_bytes_per_value == 2


def test_measured_costs_bring_times_and_leave_memory():
    """A file for sharded 16-bit weights does not decide what a replicated float32 job holds."""
    own = costs()
    file = costs(is_sharded=True, in_bfloat16=True, is_checkpointed=True).model_copy(
        update={
            "linear_seconds_per_token": 0.5,
            "micro_batch_seconds": 0.25,
            "all_to_all_bytes_per_second": {2: 1e6},
            "source": "fitted",
        }
    )
    found = with_measured_times(own, file)
    assert (found.linear_seconds_per_token, found.micro_batch_seconds) == (0.5, 0.25)
    assert found.source == "fitted"
    assert found.model_states == own.model_states
    assert found.activation_bytes_per_token == own.activation_bytes_per_token
    assert (found.sharding, found.exchanged_bytes_per_value) == ("none", 4)
    # An exchange takes the time that was measured.
    assert found.exchanged_bytes_per_token(2) / found.tabled_rate(2) == pytest.approx(
        file.exchanged_bytes_per_token(2) / file.tabled_rate(2)
    )
