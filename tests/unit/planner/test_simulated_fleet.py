"""Fleets refuse nonsense, and lose replicas and markets."""

import math

import pytest
from serving_fleets import LinearStepTimes, fleet, pool

from planner.errors import InfeasibleError
from planner.simulator import (
    Loss,
    ServingFleet,
    SizeShares,
    simulate,
    without_market,
    without_replica,
)
from planner.workloads.trace import Trace


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
    with pytest.raises(ValueError, match="named a, a"):
        fleet(pool("a"), pool("a"))
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
    planned = {"m": SizeShares((9,), ((0.0, 1.0, 0.0),))}
    assert without_replica(once, 0, shares=planned).shares == planned
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
    with pytest.raises(
        InfeasibleError, match="without the last replica of a nobody serves m, inputs"
    ):
        without_replica(fleet(pool()), 0)
    with pytest.raises(InfeasibleError, match="without market on-demand nobody serves m"):
        without_market(fleet(pool()), "on-demand")


def test_what_requests_cost_beside_steps_delays_all_their_tokens():
    """Each pool's own overhead is in its times to first token, and in nothing else."""
    trace = Trace([0.0, 0.1, 0.2, 0.3], [5, 9, 5, 9], [5, 4, 1, 2])
    shares = {"m": SizeShares((5, 9), ((1.0, 0.0), (0.0, 1.0)))}

    def served(*overheads):
        pools = (pool(n, request_overhead_seconds=s) for n, s in zip("ab", overheads, strict=True))
        return simulate(ServingFleet(tuple(pools), shares), trace, seed=0)

    without, beside = served(0.0, 0.0), served(0.25, 0.5)
    delays = [b - a for a, b in zip(without.ttft_seconds(), beside.ttft_seconds(), strict=True)]
    assert delays == pytest.approx([0.25, 0.5, 0.25, 0.5])
    assert beside.tpot_seconds() == pytest.approx(without.tpot_seconds())
    assert beside.replicas == without.replicas
    with pytest.raises(ValueError, match="costs -1 s beside its steps; give 0 or more"):
        pool(request_overhead_seconds=-1)


def test_requests_of_a_lost_replica_start_anew_elsewhere():
    """Done by hand: steps of 1 s; at 2.5 s the first replica goes with a request two tokens old.

    A comes to the first replica at 0 with 5 tokens to emit, B to the second at 0.5 with 4. B's
    tokens come out at 1.5, 2.5, 3.5, 4.5. A starts anew at 2.5, just after B's step began, so its
    prompt is computed from 3.5 and its tokens come out from 4.5 to 8.5.
    """
    times = LinearStepTimes(1.0, 0.0, 0.0, 0.0, 0.0)
    whole = fleet(pool("a", market="spot", step_times=times), pool("b", step_times=times))
    whole = ServingFleet(whole.pools, {"m": SizeShares((5, 9), ((1.0, 0.0), (0.0, 1.0)))})
    rest = {"m": SizeShares((9,), ((0.0, 1.0),))}
    loss = Loss(2.5, without_market(whole, "spot", shares=rest))
    result = simulate(whole, Trace([0.0, 0.5], [5, 9], [5, 4]), seed=0, losses=[loss])
    assert result.first_token_seconds == pytest.approx([4.5, 1.5])
    assert result.completion_seconds == pytest.approx([8.5, 4.5])
    assert result.num_restarts == [1, 0]
    assert result.replica_of == [1, 1]
    assert result.replicas[0].busy_fraction == pytest.approx(2.5 / 8.5)


def test_a_loss_before_the_first_request_is_one_from_the_start():
    """A replica that goes at 0 s leaves the same times as a fleet that never had it."""
    whole = fleet(pool("a", 3), pool("b"))
    left = without_replica(whole, 0)
    trace = Trace([0.3 * i for i in range(60)], [40] * 60, [50] * 60)
    lost = simulate(whole, trace, seed=1, losses=[Loss(0.0, left)])
    assert lost.completion_seconds == simulate(left, trace, seed=1).completion_seconds
    assert sum(lost.num_restarts) == 0


def test_a_loss_after_the_last_arrival_still_counts():
    """Requests in service when nothing arrives any more are moved all the same."""
    whole = fleet(pool("a", 2))
    trace = Trace([0.0, 0.0], [40] * 2, [500] * 2)
    result = simulate(whole, trace, seed=0, losses=[Loss(1.0, without_replica(whole, 0))])
    assert result.num_restarts == [0, 1]
    assert result.replica_of == [0, 0]


def test_losses_that_are_none_are_refused():
    """A loss takes replicas of the same pools, later than the loss before it."""
    whole, trace = fleet(pool("a", 3)), Trace([0.0], [1], [1])
    left = without_replica(whole, 0)
    for losses, message in (
        ([Loss(-1.0, left)], r"a loss at -1\.0 s"),
        ([Loss(math.nan, left)], "a loss at nan s"),
        ([Loss(2.0, left), Loss(1.0, without_replica(left, 0))], r"at 1\.0 s after 2\.0 s"),
        ([Loss(1.0, fleet(pool("a", 4)))], "more replicas"),
        ([Loss(1.0, fleet(pool("b", 1)))], "other pools"),
        ([Loss(1.0, ServingFleet(left.pools, {"n": left.shares["m"]}))], "serves n; give shares"),
    ):
        with pytest.raises(ValueError, match=message):
            simulate(whole, trace, seed=0, losses=losses)
