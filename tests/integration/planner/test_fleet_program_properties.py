"""What must hold of any optimum of the fleet program, proven to a gap of 1e-6."""

import time
from dataclasses import replace

from fleet_programs import one_model
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.fleet_program.problem import Cap, FleetProblem, Rules, ShareRow
from planner.fleet_program.single_type import best_single_types
from planner.fleet_program.solve import solve
from planner.solvers import Highs, SolverChain

GAP = 1e-6
SLACK = 1 + 3 * GAP

rates = st.floats(0.1, 5.0)
prices = st.floats(0.2, 5.0)
throughputs = st.one_of(st.just(0.0), st.floats(0.5, 6.0), st.floats(0.5, 6.0))
survival = st.booleans()


@st.composite
def problems(draw):
    """Draw a problem of one model; the first offer serves everything."""
    num_rows = draw(st.integers(1, 4))
    row_rates = draw(st.lists(rates, min_size=num_rows, max_size=num_rows))
    offers = [(draw(prices), [draw(st.floats(0.5, 6.0)) for _ in row_rates], 0.9)]
    for _ in range(draw(st.integers(0, 2))):
        offers.append((draw(prices), [draw(throughputs) for _ in row_rates], 0.9))
    return one_model(row_rates, offers, rules=Rules(survive_one_replica=draw(survival)))


def _cost(problem: FleetProblem) -> float:
    """Return the cost; infinite where there is no plan."""
    found = solve(
        problem,
        solver=SolverChain([Highs()]),
        time_limit_seconds=60,
        gap_fraction=GAP,
        clock=time.perf_counter,
    )
    assert found.status in ("optimal", "infeasible")
    return found.cost_usd_per_hour if found.counts else float("inf")


def _scaled(problem, factor, rows=None):
    """Return the problem with the loads of some rows, or all, times a factor."""
    columns = tuple(
        replace(
            column,
            loads=tuple(
                load if load is None or (rows is not None and r not in rows) else load * factor
                for r, load in enumerate(column.loads)
            ),
        )
        for column in problem.columns
    )
    return replace(problem, columns=columns)


few = settings(max_examples=40, deadline=None)


@few
@given(problems(), st.floats(1.0, 3.0), st.integers(0, 3))
def test_more_requests_never_cost_less(problem, factor, row):
    """Raising the rate of one row leaves the cost or raises it."""
    assert _cost(problem) <= _cost(_scaled(problem, factor, {row})) * SLACK


@few
@given(problems(), st.floats(1.0, 3.0))
def test_a_tighter_target_never_costs_less(problem, factor):
    """Lower throughputs of one offer, all else equal, leave the cost or raise it."""
    slower = _scaled(problem, factor).columns[0]
    assert _cost(problem) <= _cost(replace(problem, columns=(slower, *problem.columns[1:]))) * SLACK


@few
@given(problems(), st.floats(1.0, 3.0))
def test_a_dearer_offer_never_costs_less(problem, factor):
    """Raising one price leaves the cost or raises it; raising all scales it."""
    first, *others = problem.columns
    dearer = replace(first, price_usd_per_hour=first.price_usd_per_hour * factor)
    assert _cost(problem) <= _cost(replace(problem, columns=(dearer, *others))) * SLACK


@few
@given(problems(), st.integers(0, 6), st.integers(0, 6))
def test_a_tighter_cap_never_costs_less(problem, low, high):
    """Fewer GPUs of a pool leave the cost or raise it, up to no plan at all."""
    low, high = min(low, high), max(low, high)
    costs = [
        _cost(replace(problem, caps=(Cap("pool", limit, (0,)),))) for limit in (low, high, 1000)
    ]
    assert costs[2] <= costs[1] * SLACK
    assert costs[1] <= costs[0] * SLACK


@few
@given(problems(), st.floats(0.2, 3.0))
def test_two_fleets_are_never_cheaper_than_one(problem, factor):
    """cost(r1 + r2) <= cost(r1) + cost(r2) without caps, budget or transition."""
    together = _cost(_scaled(problem, 1 + factor))
    assert together <= (_cost(problem) + _cost(_scaled(problem, factor))) * SLACK


@few
@given(problems())
def test_another_offer_never_costs_more(problem):
    """Without its last offer a fleet costs the same or more."""
    fewer = replace(problem, columns=problem.columns[:-1])
    assert not fewer.columns or _cost(problem) <= _cost(fewer) * SLACK


@few
@given(problems(), st.integers(1, 20))
def test_the_mix_is_never_above_a_single_type(problem, limit):
    """No fleet of a single type that meets the same constraints is cheaper."""
    capped = replace(problem, caps=(Cap("pool", limit, tuple(range(len(problem.columns)))),))
    cost = _cost(capped)
    for fleet in best_single_types(capped, solver=SolverChain([Highs()]), clock=time.perf_counter):
        if fleet.cost_usd_per_hour is not None:
            assert cost <= fleet.cost_usd_per_hour * SLACK


@few
@given(problems(), st.data())
def test_knowing_the_output_never_costs_more(problem, data):
    """Rows merged into one, which must share their shares, cost the same or more."""
    first = data.draw(st.integers(0, len(problem.rows) - 1))
    merged = {0, first}
    columns = []
    for column in problem.columns:
        inside = [column.loads[r] for r in sorted(merged)]
        load = None if any(part is None for part in inside) else sum(inside)
        others = tuple(part for r, part in enumerate(column.loads) if r not in merged)
        columns.append(replace(column, loads=(load, *others)))
    rows = tuple(ShareRow(0, f"row {r}") for r in range(len(columns[0].loads)))
    blind = replace(problem, rows=rows, columns=tuple(columns))
    assert _cost(problem) <= _cost(blind) * SLACK
