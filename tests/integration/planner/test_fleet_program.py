"""The fleet program against brute force, in one piece and decomposed; and its single rules."""

import itertools
import random
import time
from dataclasses import replace

import pytest
from fleet_programs import brute_force_cost, is_plan, melange_program, one_model, random_program

from planner import branch_and_bound
from planner.fleet_program import decomposed
from planner.fleet_program import solve as solving
from planner.fleet_program.answer import CountsFound
from planner.fleet_program.balance import check_shares
from planner.fleet_program.counts_master import CountsMaster, Relaxed
from planner.fleet_program.highs import Solved
from planner.fleet_program.limits import Scenario
from planner.fleet_program.problem import Cap, Rules
from planner.fleet_program.solve import solve, unservable_rows
from planner.solvers import Cbc, Highs, SolverChain


def _solve(problem, *, solver=None):
    return solve(
        problem,
        solver=solver or SolverChain([Highs()]),
        time_limit_seconds=60,
        gap_fraction=1e-7,
        clock=time.perf_counter,
    )


@pytest.mark.parametrize("few", [0, branch_and_bound.FEW_WHOLE_VARIABLES])
@pytest.mark.parametrize("seed", range(150))
def test_cost_equals_brute_force(seed, few, monkeypatch):
    """Whatever the rules and whoever branches, the optimum costs what trying every count costs."""
    monkeypatch.setattr(branch_and_bound, "FEW_WHOLE_VARIABLES", few)
    _equals_brute_force(random_program(seed))


@pytest.mark.parametrize("decompose", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_a_minimum_of_a_column_equals_brute_force(seed, decompose, monkeypatch):
    """One replica more of some column than the optimum has: what is dearer then is what it costs."""
    drawn = map(random_program, itertools.count(seed, 1000))
    problem, counts = next((p, found.counts) for p in drawn if (found := _solve(p)).counts)
    o = seed % len(counts)
    forced = replace(problem.columns[o], min_replicas=counts[o] + 1)
    columns = (*problem.columns[:o], forced, *problem.columns[o + 1 :])
    if decompose:
        monkeypatch.setattr(solving, "WHOLE_SHARES", 0)
    _equals_brute_force(replace(problem, columns=columns))


def _equals_brute_force(problem):
    expected = brute_force_cost(problem)
    found = _solve(problem)
    if expected is None:
        assert found.status == "infeasible"
        return
    assert found.status == "optimal"
    assert found.cost_usd_per_hour == pytest.approx(expected, abs=1e-6)
    assert found.bound_usd_per_hour == pytest.approx(expected, rel=1e-6)
    assert is_plan(problem, found.counts)


@pytest.mark.parametrize("seed", range(150))
def test_decomposing_changes_no_cost(seed, monkeypatch):
    """Taken apart, a problem has the cost it has in one piece, proven too."""
    problem = random_program(seed)
    whole = _solve(problem)
    monkeypatch.setattr(solving, "WHOLE_SHARES", 0)
    found = _solve(problem)
    assert found.status == whole.status
    assert found.cost_usd_per_hour == pytest.approx(whole.cost_usd_per_hour, rel=1e-6)
    if found.counts:
        assert found.solver == decomposed.SOLVER
        assert is_plan(problem, found.counts)


@pytest.mark.parametrize("seed", range(10))
def test_cbc_agrees_with_highs(seed):
    """Without HiGHS the same cost is found."""
    problem = random_program(seed)
    found = _solve(problem, solver=SolverChain([Cbc()]))
    assert found.cost_usd_per_hour == pytest.approx(_solve(problem).cost_usd_per_hour, abs=1e-6)


def test_the_published_example_costs_468():
    """Mélange's example takes one A10G and one A100, at the shares worked out by hand."""
    found = _solve(melange_program())
    assert found.counts == (1, 1)
    assert found.cost_usd_per_hour == pytest.approx(4.68, abs=1e-12)
    assert found.gap_fraction <= 1e-6
    by_hand = [{1: 1}, {1: 1}, {0: 1 / 3, 1: 2 / 3}, {1: 1}]
    for row, expected in zip(found.shares, by_hand, strict=True):
        assert dict(row) == pytest.approx(expected, abs=1e-6)


def test_ties_go_to_fewer_replicas_then_to_the_first_name():
    """Of equally cheap plans the one with fewer replicas is taken, then the first by offer name."""
    fewer = one_model([2.0], [(1.0, [1.0]), (2.0, [2.0])])
    assert _solve(fewer).counts == (0, 1)
    twins = one_model([2.0], [(2.0, [2.0]), (2.0, [2.0]), (2.0, [2.0])])
    assert _solve(twins).counts == (1, 0, 0)


def test_models_share_a_cap():
    """What one model takes of a pool the other has not."""
    first = one_model([1.0], [(1.0, [1.0]), (3.0, [1.0])])
    second = tuple(replace(column, model=1) for column in first.columns)
    problem = replace(
        first,
        models=("a", "b"),
        rows=(*first.rows, replace(first.rows[0], model=1)),
        columns=(*first.columns, *second),
        caps=(Cap("cheap", 1, (0, 2)),),
    )
    assert _solve(problem).cost_usd_per_hour == pytest.approx(4.0)


def test_a_cap_counts_gpus_over_parallel_degrees():
    """Replicas of two and of four GPUs draw on one pool."""
    problem = one_model([6.0], [(2.0, [2.0]), (3.9, [4.0]), (9.0, [2.0])])
    columns = tuple(
        replace(column, gpus=gpus) for column, gpus in zip(problem.columns, (2, 4, 1), strict=True)
    )
    pooled = replace(problem, columns=columns, caps=(Cap("pool", 4, (0, 1)),))
    assert _solve(problem).counts == (1, 1, 0)
    assert _solve(pooled).counts == (0, 1, 1)


def test_surviving_a_replica_leaves_no_single_one():
    """A load of one and a half replicas takes three, and a tiny load two."""
    rules = Rules(survive_one_replica=True)
    assert _solve(one_model([1.5], [(1.0, [1.0])], rules=rules)).counts == (3,)
    assert _solve(one_model([0.01], [(1.0, [1.0])], rules=rules)).counts == (2,)


def test_surviving_a_market_returns_its_shares():
    """Each market alone carries everything, and the shares to route by are in the answer."""
    problem = one_model([1.0], [(1.0, [1.0], 0.8), (2.0, [1.0], 0.8)])
    columns = tuple(
        replace(column, market=market)
        for column, market in zip(problem.columns, ("a", "b"), strict=True)
    )
    rules = Rules(survive_one_market=True)
    found = _solve(replace(problem, columns=columns, rules=rules))
    assert found.counts == (1, 1)
    assert found.shares_without_market == (("a", (((1, 1.0),),)), ("b", (((0, 1.0),),)))


def test_a_replica_that_must_stay_may_idle():
    """Where a bounded change keeps replicas, they stand although nothing needs them."""
    problem = one_model([1.0], [(5.0, [1.0]), (1.0, [1.0])], rules=Rules(max_change_replicas=1))
    kept = replace(problem.columns[0], current_replicas=3)
    found = _solve(replace(problem, columns=(kept, problem.columns[1])))
    assert found.counts == (2, 0)


def test_owned_hardware_is_used_first():
    """Replicas at price 0 are taken before any that cost."""
    problem = one_model([3.0], [(0.0, [1.0]), (1.0, [1.0])], caps=(Cap("own", 2, (0,)),))
    found = _solve(problem)
    assert found.counts == (2, 1)
    assert found.gap_fraction == 0


@pytest.mark.parametrize("solver", [Highs(), Cbc()])
def test_what_is_free_and_serves_nothing_stays_out(solver):
    """An owned offer that fits no request has no count to choose, and a fleet may cost nothing."""
    free = (0.0, [0.0])
    assert _solve(one_model([1.5], [free, (2.0, [1.0])]), solver=SolverChain([solver])).counts == (
        0,
        2,
    )
    owned = _solve(one_model([1.5], [free, (0.0, [1.0])]), solver=SolverChain([solver]))
    assert owned.cost_usd_per_hour == 0
    assert owned.counts[0] == 0
    assert owned.counts[1] >= 2


def test_a_row_nobody_serves_is_infeasible():
    """A row without any offer ends the search before it starts."""
    problem = one_model([1.0, 1.0], [(1.0, [1.0, 0.0])])
    assert unservable_rows(problem) == (1,)
    assert _solve(problem).status == "infeasible"


def _with_a_tiny_row(load):
    """Return a problem too large for one piece; its last row is served by its last offer only."""
    rng = random.Random(0)
    offers = [
        (round(rng.uniform(1, 5), 2), [1 / rng.uniform(0.05, 0.3) for _ in range(60)] + [0])
        for _ in range(40)
    ]
    return one_model([1.0] * 61, [*offers, (2.0, [0] * 60 + [1 / load])])


@pytest.mark.parametrize("load", [1e-6, 1e-9, 1e-12])
def test_a_row_with_next_to_no_load_is_served(load):
    """However small its load, the only offer of a row stands in the plan, and nothing falls back."""
    problem = _with_a_tiny_row(load)
    chain = SolverChain([Highs()])
    found = solve(
        problem, solver=chain, time_limit_seconds=60, gap_fraction=0.01, clock=time.perf_counter
    )
    assert found.solver == decomposed.SOLVER
    assert chain.num_fallbacks == 0
    assert found.counts[-1] == 1
    assert found.shares[-1] == ((40, 1.0),)


@pytest.mark.parametrize("load", [0.02, 1e-2, 1e-6, 1e-9, 1e-12])
def test_a_row_with_next_to_no_load_is_served_in_one_piece_too(load):
    """Neither a solver's tolerance nor a neighbour with room serves it."""
    found = _solve(one_model([1.0, 1.0], [(1.0, [0.4, 0]), (2.0, [0, 1 / load])]))
    assert found.solver == Highs.name
    assert found.counts == (3, 1)


NO_PLAN = Solved(None, float("inf"), float("inf"), True)
TOO_HIGH = Solved(None, float("inf"), 1e6, False)


def _must_fall_back(problem, monkeypatch):
    """Solve decomposed; the decomposition must give up and the whole program answer in its place."""
    expected = _solve(problem)
    monkeypatch.setattr(solving, "WHOLE_SHARES", 0)
    chain = SolverChain([Highs()])
    found = _solve(problem, solver=chain)
    assert chain.num_fallbacks == 1
    assert found.solver == Highs.name
    assert found.cost_usd_per_hour == pytest.approx(expected.cost_usd_per_hour)


@pytest.mark.parametrize("evidence", [NO_PLAN, TOO_HIGH])
def test_a_search_that_contradicts_a_known_plan_proves_nothing(evidence, monkeypatch):
    """A master without a solution, or with a bound above a plan's cost, is wrong: it gives up."""
    monkeypatch.setattr(CountsMaster, "search", lambda *_, **__: evidence)
    _must_fall_back(random_program(9), monkeypatch)


def test_a_relaxation_that_contradicts_a_known_plan_proves_nothing(monkeypatch):
    """No solution of the relaxation after a plan was found is no proof that none exists."""
    close = decomposed.close_relaxation

    def closed(*given, **others):
        relaxed = close(*given, **others)
        nothing = Relaxed(float("inf"), relaxed.counts, relaxed.used)
        monkeypatch.setattr(CountsMaster, "relax", lambda _: nothing)
        return relaxed

    monkeypatch.setattr(decomposed, "close_relaxation", closed)
    _must_fall_back(random_program(9), monkeypatch)


def test_a_plan_below_a_bound_proves_nothing(monkeypatch):
    """A bound that a later plan undercuts was wrong from the start."""
    close = decomposed.close_relaxation
    monkeypatch.setattr(
        decomposed,
        "close_relaxation",
        lambda *given, **others: replace(close(*given, **others), bound_usd_per_hour=1e6),
    )
    _must_fall_back(random_program(9), monkeypatch)


def test_counts_that_fail_their_check_fall_back(monkeypatch):
    """Where decomposed counts do not carry the load, the whole program answers, and it is counted."""
    monkeypatch.setattr(solving, "WHOLE_SHARES", 0)
    short = CountsFound("optimal", (1, 0), 1.01, 1.01, decomposed.SOLVER)
    monkeypatch.setattr(decomposed, "cheapest_counts", lambda *_, **__: short)
    chain = SolverChain([Highs()])
    assert _solve(melange_program(), solver=chain).counts == (1, 1)
    assert chain.num_fallbacks == 1


@pytest.mark.parametrize("seed", range(20))
def test_shares_pass_a_check_of_their_own(seed):
    """The returned shares sum to one and overload nothing."""
    problem = random_program(seed)
    found = _solve(problem)
    if found.counts:
        check_shares(problem, found.counts, Scenario(), found.shares)
        assert all(sum(share for _, share in row) == pytest.approx(1) for row in found.shares)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"caps": (Cap("c", -1, (0,)),)}, "negative"),
        ({"rules": Rules(spot_fraction_limit=2.0)}, "spot limit"),
        ({"rules": Rules(min_replicas_of_model=(1, 2))}, "each model"),
    ],
)
def test_a_broken_problem_is_refused(change, words):
    """Numbers outside their range name themselves."""
    with pytest.raises(ValueError, match=words):
        replace(melange_program(), **change)
