"""How far caps must rise for a plan to exist."""

from collections.abc import Sequence
from dataclasses import replace

import pulp

from planner.errors import SolverError
from planner.fleet_program.problem import Cap, FleetProblem
from planner.fleet_program.whole import whole_program
from planner.solvers import SolverChain


def smallest_caps(problem: FleetProblem, solver: SolverChain) -> tuple[int, ...]:
    """Return limits that admit a plan, by cap, with the smallest sum of raises.

    The whole program with caps that may be exceeded; the excess is minimised in place of the cost.

    Raises:
        SolverError: If no solver works, or there is no plan at any caps.
    """
    program = whole_program(replace(problem, caps=()))
    lp = program.lp
    excess = []
    for number, cap in enumerate(problem.caps):
        excess.append(lp.add_variable(f"excess_{number}", 0, None, pulp.LpInteger))
        used = pulp.lpSum(cap.use_of(problem.columns[o]) * program.count[o] for o in cap.columns)
        lp += used <= cap.limit + excess[-1]
    lp.setObjective(pulp.lpSum(excess))
    answer = solver.minimise(lp)
    if answer.verdict != "solved":
        raise SolverError(f"{answer.solver} could not tell which cap binds: {answer.verdict}")
    return tuple(
        cap.limit + round(variable.value())
        for cap, variable in zip(problem.caps, excess, strict=True)
    )


def enough_caps(problem: FleetProblem, counts: Sequence[int]) -> tuple[int, ...]:
    """Return limits that admit the counts, by cap, none below what it is."""
    return tuple(max(cap.limit, cap_use(problem, cap, counts)) for cap in problem.caps)


def cap_use(problem: FleetProblem, cap: Cap, counts: Sequence[int]) -> int:
    """Return what the counts take of a cap."""
    return sum(cap.use_of(problem.columns[o]) * counts[o] for o in cap.columns)
