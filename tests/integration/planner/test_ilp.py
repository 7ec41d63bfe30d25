"""The MILP against brute force, the published example, and what must hold of any optimum."""

import time
from dataclasses import replace
from itertools import pairwise

import pytest
from fleet_instances import (
    brute_force_cost,
    carries,
    fleet_problem,
    melange_problem,
    random_problem,
    sliced_cost,
)

from planner.ilp import cheapest_counts
from planner.infeasible import unservable_size
from planner.shares import spread_load
from planner.single_type import single_type
from planner.solvers import Cbc, Highs, SolverChain


def _solve(problem, *, solver=None, time_limit_seconds=60.0):
    return cheapest_counts(
        problem,
        solver or SolverChain([Highs()]),
        time_limit_seconds=time_limit_seconds,
        gap_fraction=0.0,
        clock=time.perf_counter,
    )


@pytest.mark.parametrize("seed", range(60))
def test_cost_equals_brute_force(seed):
    """The proven optimum costs what trying every count costs, and is infeasible where none will do."""
    problem = random_problem(seed)
    expected = brute_force_cost(problem)
    if unservable_size(problem) is not None:
        assert expected is None
        return
    found = _solve(problem)
    if expected is None:
        assert found.status == "infeasible"
    else:
        assert found.status == "optimal"
        assert found.cost_usd_per_hour == pytest.approx(expected, abs=1e-6)
        assert found.bound_usd_per_hour == pytest.approx(expected, rel=1e-6)
        assert carries(problem, found.counts)


@pytest.mark.parametrize("seed", range(12))
def test_cbc_agrees_with_highs(seed):
    """Both solvers find the same cost for the same problem."""
    problem = random_problem(seed, capped_fraction=0)
    if unservable_size(problem) is None:
        chain = SolverChain([Cbc()])
        found = _solve(problem, solver=chain)
        assert found.status == "optimal"
        assert found.solver == "CBC"
        assert found.cost_usd_per_hour == pytest.approx(_solve(problem).cost_usd_per_hour, abs=1e-6)


def test_the_published_example_costs_468():
    """Mélange's example takes one A10G and one A100, at the shares worked out by hand."""
    problem = melange_problem()
    found = _solve(problem)
    assert found.counts == (1, 1)
    assert found.cost_usd_per_hour == pytest.approx(4.68, abs=1e-12)
    shares = spread_load(problem, found.counts, SolverChain([Highs()]))
    by_hand = [(0, 1), (0, 1), (1 / 3, 2 / 3), (0, 1)]
    for row, expected in zip(shares, by_hand, strict=True):
        assert row == pytest.approx(expected, abs=1e-6)


def test_the_published_program_costs_670():
    """Assigning whole sizes, as the published program does, costs the README's 6.70 USD an hour."""
    assert sliced_cost(melange_problem(), 1) == pytest.approx(6.70, abs=1e-9)


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
def test_slices_are_never_cheaper(slices):
    """Continuous shares cost at most what any slice factor costs."""
    for problem in (
        melange_problem(),
        *(random_problem(seed, capped_fraction=0) for seed in range(4)),
    ):
        if unservable_size(problem) is None:
            assert _solve(problem).cost_usd_per_hour <= sliced_cost(problem, slices) + 1e-6


@pytest.mark.parametrize("seed", range(15))
def test_another_offer_never_costs_more(seed):
    """Each further offer leaves the cost as it is or lowers it."""
    problem = random_problem(seed, capped_fraction=0)
    costs = []
    for num_offers in range(1, len(problem.offers) + 1):
        part = replace(problem, offers=problem.offers[:num_offers])
        if unservable_size(part) is None:
            costs.append(_solve(part).cost_usd_per_hour)
    assert all(after <= before + 1e-9 for before, after in pairwise(costs))


@pytest.mark.parametrize("seed", range(15))
def test_the_mix_is_never_above_a_single_type(seed):
    """No fleet of one offer is cheaper than the planned mix."""
    problem = random_problem(seed)
    if unservable_size(problem) is not None:
        return
    found = _solve(problem)
    for offer in range(len(problem.offers)):
        cost = single_type(problem, offer).cost_usd_per_hour
        if cost is not None:
            assert found.cost_usd_per_hour <= cost + 1e-9


@pytest.mark.parametrize("seed", range(15))
def test_a_cap_never_lowers_the_cost(seed):
    """Capping an offer below its count costs at least as much, or is infeasible."""
    problem = random_problem(seed, capped_fraction=0)
    if unservable_size(problem) is not None:
        return
    free = _solve(problem)
    for index, count in enumerate(free.counts):
        offers = list(problem.offers)
        offers[index] = replace(offers[index], max_replicas=max(0, count - 1))
        capped = _solve(replace(problem, offers=tuple(offers)))
        assert capped.status == "infeasible" or (
            capped.cost_usd_per_hour >= free.cost_usd_per_hour - 1e-9
        )


@pytest.mark.parametrize("seed", range(30))
def test_shares_sum_to_one_and_overload_nothing(seed):
    """Every size is served in full and no offer exceeds its utilisation limit."""
    problem = random_problem(seed, capped_fraction=0)
    if unservable_size(problem) is not None:
        return
    chain = SolverChain([Highs()])
    counts = _solve(problem).counts
    shares = spread_load(problem, counts, chain)
    assert all(sum(row) == pytest.approx(1, abs=1e-12) for row in shares)
    for o, count in enumerate(counts):
        load = sum(problem.load_replicas(s, o) * row[o] for s, row in enumerate(shares) if row[o])
        assert load <= problem.offers[o].utilisation_limit_fraction * count * (1 + 2e-5)


def test_a_load_below_the_integer_tolerance_still_gets_a_replica():
    """One request in a hundred days is not served by zero replicas."""
    found = _solve(fleet_problem([1e-7], [(2.0, [1.0])]))
    assert found.counts == (1,)


def test_free_replicas_are_not_piled_up():
    """Of equally cheap fleets the one with the fewest replicas is taken, owned hardware included."""
    problem = fleet_problem([2.0, 1.0], [(0.0, [1.0, 1.0], 1.0, 50), (0.0, [2.0, 0.5], 1.0, 50)])
    found = _solve(problem)
    assert found.cost_usd_per_hour == 0
    assert found.gap_fraction == 0
    assert sum(found.counts) == 2


def test_a_load_of_exactly_four_replicas_takes_four():
    """Floating-point noise around a whole number costs no replica."""
    assert _solve(fleet_problem([0.4, 2.4, 1.2], [(1.0, [1.0, 1.0, 1.0])])).counts == (4,)


def test_spread_evens_the_load_out():
    """At fixed counts the shares fill two equal offers equally."""
    problem = fleet_problem([1.0], [(1.0, [1.0]), (1.0, [1.0])])
    shares = spread_load(problem, (1, 1), SolverChain([Highs()]))
    assert shares[0] == pytest.approx((0.5, 0.5))


def test_throughputs_of_one_size_may_differ_by_ten_million():
    """A nearly useless offer neither breaks the solver's precision nor hides replicas."""
    rates, good = [30.0, 9.0, 1.0], (4.0, [40.0, 14.0, 3.0], 0.75, 4)
    problem = fleet_problem(rates, [(0.7, [7.0, 1e-6, 0.0]), good])
    without = fleet_problem(rates, [(0.7, [7.0, 0.0, 0.0]), good])
    found = _solve(problem)
    assert found.status == "optimal"
    assert found.cost_usd_per_hour == pytest.approx(brute_force_cost(without))
    shares = spread_load(problem, found.counts, SolverChain([Highs()]))
    assert shares[1] == pytest.approx((0, 1), abs=1e-6)
