"""`solve`: from the numbers of a fleet problem to a plan with its certificate."""

from collections.abc import Callable
from dataclasses import replace

from planner.errors import SolverError
from planner.fleet_program import whole
from planner.fleet_program.answer import CountsFound, FleetAnswer
from planner.fleet_program.balance import balanced_shares, check_counts
from planner.fleet_program.limits import scenarios
from planner.fleet_program.problem import FleetProblem
from planner.solvers import Highs, SolverChain

WHOLE_SHARES = 2000
"""Up to so many shares a problem is solved as one program, to a proven optimum."""


def solve(
    problem: FleetProblem,
    *,
    solver: SolverChain,
    time_limit_seconds: float,
    gap_fraction: float,
    clock: Callable[[], float],
) -> FleetAnswer:
    """Return the cheapest plan; of equally cheap ones, where proven, the fewest replicas, then by name.

    Args:
        problem: The numbers.
        solver: Who solves the programs; a chain without HiGHS solves large problems whole.
        time_limit_seconds: For the search of the replica counts, above 0.
        gap_fraction: Relative gap at which that search may stop.
        clock: Seconds from any start.

    Raises:
        SolverError: If no solver works, or a plan fails its check.
    """
    started = clock()
    if unservable_rows(problem):
        answer = _checked(problem, CountsFound("infeasible"), solver)
    else:
        answer = _solved(
            problem,
            solver=solver,
            time_limit_seconds=time_limit_seconds,
            gap_fraction=gap_fraction,
            clock=clock,
        )
    return replace(answer, seconds=clock() - started)


def unservable_rows(problem: FleetProblem) -> tuple[int, ...]:
    """Return the rows that no column serves at any count."""
    served = {
        r
        for column in problem.columns
        for r, load in zip(problem.rows_of(column.model), column.loads, strict=True)
        if load is not None
    }
    return tuple(r for r in range(len(problem.rows)) if r not in served)


def num_shares(problem: FleetProblem) -> int:
    """Return how many shares the whole program would hold, over all scenarios."""
    served = sum(load is not None for column in problem.columns for load in column.loads)
    return served * len(scenarios(problem))


def _solved(
    problem: FleetProblem,
    *,
    solver: SolverChain,
    time_limit_seconds: float,
    gap_fraction: float,
    clock: Callable[[], float],
) -> FleetAnswer:
    if num_shares(problem) > WHOLE_SHARES and solver.starts_with(Highs):
        # numpy and HiGHS load only where a problem is large.
        from planner.fleet_program import decomposed

        try:
            found = decomposed.cheapest_counts(
                problem,
                time_limit_seconds=time_limit_seconds,
                gap_fraction=gap_fraction,
                clock=clock,
            )
            return _checked(problem, found, solver)
        except SolverError as error:
            solver.note_fallback(decomposed.SOLVER, error)
    found = whole.cheapest_counts(
        problem,
        solver,
        time_limit_seconds=time_limit_seconds,
        gap_fraction=gap_fraction,
        clock=clock,
    )
    return _checked(problem, found, solver)


def _checked(problem: FleetProblem, found: CountsFound, solver: SolverChain) -> FleetAnswer:
    """Return the counts found with shares that pass their check.

    Raises:
        SolverError: If the counts break a rule or do not carry the load.
    """
    answer = FleetAnswer(
        status=found.status,
        counts=found.counts,
        shares=(),
        shares_without_market=(),
        cost_usd_per_hour=found.cost_usd_per_hour,
        bound_usd_per_hour=found.bound_usd_per_hour,
        solver=found.solver,
        seconds=0.0,
    )
    if not found.counts:
        return answer
    check_counts(problem, found.counts)
    normal, *lost = (
        (scenario.lost_market, balanced_shares(problem, found.counts, scenario, solver))
        for scenario in scenarios(problem)
    )
    without_market = tuple((market or "", shares) for market, shares in lost)
    return replace(answer, shares=normal[1], shares_without_market=without_market)
