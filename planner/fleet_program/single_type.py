"""Fleets of a single type: the usual alternative to a mix, under the same constraints."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.fleet_program.answer import Status
from planner.fleet_program.problem import FleetProblem
from planner.fleet_program.solve import solve
from planner.solvers import SolverChain

GAP_FRACTION = 1e-6
SECONDS_EACH = 5.0
"""A single type has a handful of columns: its program takes milliseconds."""


@dataclass(frozen=True, slots=True)
class SingleTypeFleet:
    """The cheapest fleet of one model on one type alone, other models aside."""

    model: int
    gpu_type: str
    status: Status
    counts: tuple[int, ...]
    """By column of the whole problem; empty where there is no such fleet."""
    cost_usd_per_hour: float | None
    """None: not to be had."""


def best_single_types(
    problem: FleetProblem, *, solver: SolverChain, clock: Callable[[], float]
) -> tuple[SingleTypeFleet, ...]:
    """Return the cheapest fleet of every model on every type, by model and type name.

    A type is what offers share in `gpu_type`, so a fleet of one may span markets, regions and
    parallel degrees. All rules and caps hold; the other models take nothing of the caps.
    """
    fleets = []
    for model in range(len(problem.models)):
        types = sorted({_type(problem, o) for o in problem.columns_of(model)})
        fleets += [_fleet(problem, model, name, solver, clock) for name in types]
    return tuple(fleets)


def _type(problem: FleetProblem, column: int) -> str:
    return problem.columns[column].gpu_type or problem.columns[column].offer


def _fleet(
    problem: FleetProblem,
    model: int,
    name: str,
    solver: SolverChain,
    clock: Callable[[], float],
) -> SingleTypeFleet:
    kept = [o for o in problem.columns_of(model) if _type(problem, o) == name]
    answer = solve(
        restricted(problem, model, kept),
        solver=solver,
        time_limit_seconds=SECONDS_EACH,
        gap_fraction=GAP_FRACTION,
        clock=clock,
    )
    if not answer.counts:
        return SingleTypeFleet(model, name, answer.status, (), None)
    counts = [0] * len(problem.columns)
    for o, count in zip(kept, answer.counts, strict=True):
        counts[o] = count
    return SingleTypeFleet(model, name, answer.status, tuple(counts), answer.cost_usd_per_hour)


def restricted(problem: FleetProblem, model: int, kept: list[int]) -> FleetProblem:
    """Return the problem of one model on some of its columns, under the same caps and rules."""
    position = {o: index for index, o in enumerate(kept)}
    rules = problem.rules
    minima = rules.min_replicas_of_model[model : model + 1]
    # One market left is a market to survive still: losing it leaves nothing.
    return FleetProblem(
        models=(problem.models[model],),
        rows=tuple(replace(problem.rows[r], model=0) for r in problem.rows_of(model)),
        columns=tuple(replace(problem.columns[o], model=0) for o in kept),
        caps=tuple(
            replace(cap, columns=tuple(position[o] for o in cap.columns if o in position))
            for cap in problem.caps
        ),
        rules=replace(rules, min_replicas_of_model=minima),
    )
