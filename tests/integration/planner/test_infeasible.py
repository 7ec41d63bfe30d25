"""Reasons in words for workloads that no fleet serves."""

import pytest
from fleet_instances import brute_force_cost, fleet_problem, random_problem

from planner.infeasible import short_caps, unservable_size
from planner.solvers import Highs, SolverChain


def test_a_size_nobody_serves_is_named_with_every_offer():
    """The reason names the size, its rate, and why each offer fails."""
    problem = fleet_problem([1.0, 2.5], [(1.0, [1, 0]), (1.0, [1, 3], 1.0, 0)])
    reason = unservable_size(problem)
    assert reason is not None
    assert "input 101-200, output 1-100 tokens (2.5 requests/s" in reason
    assert "offer-0: throughput 0, offer-1: max_replicas 0" in reason


def test_a_servable_workload_has_no_such_reason():
    """Nothing is said where each size has an offer."""
    assert unservable_size(fleet_problem([1.0], [(1.0, [1.0])])) is None


def test_a_short_cap_is_named_with_the_least_that_helps():
    """The reason says the cap, the unserved rate and the cap that would do."""
    problem = fleet_problem([10.0], [(1.0, [2.0], 1.0, 3)])
    reason = short_caps(problem, SolverChain([Highs()]))
    assert "max_replicas binds (offer-0 3)" in reason
    assert "4 of 10 requests/s stay unserved" in reason
    assert "raise max_replicas of offer-0 from 3 to 5" in reason


@pytest.mark.parametrize("seed", range(60))
def test_the_suggested_caps_are_enough(seed):
    """Where random caps leave no plan, raising them as the reason says does."""
    problem = random_problem(seed, capped_fraction=0.9)
    if unservable_size(problem) is not None or brute_force_cost(problem) is not None:
        return
    reason = short_caps(problem, SolverChain([Highs()]))
    changes = reason.split("raise max_replicas of ")[1].split(", ")
    caps = {words[0]: int(words[-1]) for words in (change.split() for change in changes)}
    raised = fleet_problem(
        [size.rate_requests_per_second for size in problem.sizes],
        [
            (
                offer.price_usd_per_hour,
                offer.throughputs_requests_per_second,
                offer.utilisation_limit_fraction,
                caps.get(offer.name, offer.max_replicas),
            )
            for offer in problem.offers
        ],
    )
    assert brute_force_cost(raised) is not None
