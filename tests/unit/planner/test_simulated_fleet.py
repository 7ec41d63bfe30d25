"""Traces and fleets refuse nonsense, and fleets lose replicas and markets."""

import math

import pytest
from serving_fleets import fleet, pool

from planner.simulator import ServingFleet, SizeShares, Trace, without_market, without_replica


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([], [], []), "empty"),
        (([0.0], [1, 2], [1]), "1 arrivals, 2 inputs, 1 outputs, 0 models"),
        (([0.0, 1.0], [1, 2], [1, 1], ["m"]), "1 models"),
        (([1.0, 0.0, 0.5, 0.4], [1] * 4, [1] * 4), "2 requests arrive before"),
        (([0.0, math.nan], [1, 1], [1, 1]), "not a finite"),
        (([0.0], [0], [1]), "no input"),
        (([0.0], [1], [0]), "no input or no output"),
    ],
)
def test_broken_traces_are_refused(columns, message):
    """What is wrong with a trace is said, with the number of rows where they count."""
    with pytest.raises(ValueError, match=message):
        Trace(*columns)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_replicas": -1}, "-1 replicas"),
        ({"kv_capacity_tokens": 0}, "no room"),
        ({"max_sequences": 0}, "no room"),
        ({"max_batched_tokens": 7}, "8 sequences do not fit a step of 7"),
    ],
)
def test_pools_without_room_are_refused(changes, message):
    """A replica holds a sequence, and a step holds a token of every sequence."""
    with pytest.raises(ValueError, match=message):
        pool(**changes)


@pytest.mark.parametrize(
    ("bounds", "rows", "message"),
    [
        ((), (), "let them rise"),
        ((5, 5), ((1.0,), (1.0,)), "let them rise"),
        ((5,), ((1.0,), (1.0,)), "2 rows"),
        ((5,), ((0.5, 0.4),), "inputs up to 5"),
        ((5,), ((1.5, -0.5),), "do not sum to 1"),
        ((5,), ((math.nan, 1.0),), "do not sum to 1"),
    ],
)
def test_shares_that_are_no_distribution_are_refused(bounds, rows, message):
    """Bounds rise and every row is a distribution."""
    with pytest.raises(ValueError, match=message):
        SizeShares(bounds, rows)


def test_fleets_whose_shares_do_not_fit_are_refused():
    """A share needs a replica, a row one entry a pool, a fleet a model."""
    with pytest.raises(ValueError, match="1 shares for 2 pools"):
        fleet(pool("a"), pool("b"), row=(1.0,))
    with pytest.raises(ValueError, match=r"a share of 0\.5 for b, which is empty"):
        fleet(pool("a"), pool("b", 0))
    with pytest.raises(ValueError, match="serves no model"):
        ServingFleet((pool(),), {})


def test_a_lost_replica_leaves_the_shares_alone():
    """The pool's other replicas take over; only its last one sends the load to other pools."""
    whole = fleet(pool("a", 2), pool("b"), pool("c"), row=(0.5, 0.2, 0.3))
    once = without_replica(whole, 0)
    assert [each.num_replicas for each in once.pools] == [1, 1, 1]
    assert once.shares["m"].rows == whole.shares["m"].rows
    twice = without_replica(once, 0)
    assert twice.pools[0].num_replicas == 0
    assert twice.shares["m"].rows[0] == pytest.approx((0.0, 0.4, 0.6))
    with pytest.raises(ValueError, match="a has no replica to remove"):
        without_replica(twice, 0)


def test_a_lost_market_takes_all_its_pools():
    """Remaining pools take over in proportion, or by the shares planned for the loss."""
    whole = fleet(pool("a", 2, market="spot"), pool("b"), pool("c"), row=(0.5, 0.2, 0.3))
    left = without_market(whole, "spot")
    assert [each.num_replicas for each in left.pools] == [0, 1, 1]
    assert left.shares["m"].rows[0] == pytest.approx((0.0, 0.4, 0.6))
    planned = {"m": SizeShares((9,), ((0.0, 1.0, 0.0),))}
    assert without_market(whole, "spot", shares=planned).shares == planned
    with pytest.raises(ValueError, match="name one of on-demand, spot"):
        without_market(whole, "reserved")


def test_a_loss_that_leaves_nobody_is_said():
    """The model and the size without a server are named."""
    with pytest.raises(ValueError, match="without the last replica of a nobody serves m, inputs"):
        without_replica(fleet(pool()), 0)
    with pytest.raises(ValueError, match="without market on-demand nobody serves m"):
        without_market(fleet(pool()), "on-demand")
