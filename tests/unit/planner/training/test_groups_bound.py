"""The bound that needs no solver, and exchanges that empty a micro-batch."""

import random

import pytest
from training_brute_force import fastest_seconds
from training_fleets import fleet, island

from planner.training.group_kinds import group_kinds
from planner.training.groups_bound import BatchBound
from planner.training.plan_groups import plan_groups


def test_a_slow_kind_counts_from_the_time_in_which_it_ends():
    """1,000 tokens alone on a device end at 10.5 s; a bound beyond would deny that plan."""
    lengths = (1000, 997, 996, 997)
    found = fleet(island(node_bytes_per_second=64_000.0), attention_seconds_per_token_squared=0.0)
    assert fastest_seconds(lengths, found) == pytest.approx(10.5)
    assert BatchBound(lengths, found, group_kinds(found)).seconds() == pytest.approx(10.5)


def test_no_plan_beats_the_bound():
    """Sequences of about one device's time, where groups of two cost a little more."""
    generator = random.Random(3)
    for _ in range(100):
        link = generator.choice([3_000.0, 10_000.0, 64_000.0])
        found = fleet(island(node_bytes_per_second=link), attention_seconds_per_token_squared=1e-5)
        lengths = [generator.randint(900, 1000) for _ in range(generator.choice([4, 5]))]
        bound = BatchBound(lengths, found, group_kinds(found)).seconds()
        assert bound <= fastest_seconds(lengths, found) * (1 + 1e-9)


def test_exchanges_may_empty_a_micro_batch():
    """Its last sequence moves to another; nothing is left there to exchange."""
    found = fleet(
        island(devices_per_node=1),
        island("b", devices_per_node=1, relative_speed=0.9),
        micro_batch_seconds=0.05,
        linear_seconds_per_token=0.001,
    )
    lengths = (258, 224, 672, 592)
    assert plan_groups(lengths, found).predicted_seconds >= fastest_seconds(lengths, found)
