"""The plan's comparison: what each type of device alone would cost for each model."""

from collections.abc import Callable

from planner.fleet.fleet_plan import SingleTypeFleet
from planner.fleet.plan_document import FleetInputs
from planner.fleet_program.problem import FleetProblem
from planner.fleet_program.single_type import best_single_types
from planner.solvers import SolverChain


def single_type_fleets(
    inputs: FleetInputs,
    problem: FleetProblem,
    *,
    solver: SolverChain,
    clock: Callable[[], float],
) -> tuple[SingleTypeFleet, ...]:
    """Return the cheapest fleet of each type for each model, all rules and caps kept."""
    fleets = best_single_types(problem, solver=solver, clock=clock)
    return tuple(
        SingleTypeFleet(
            model=problem.models[fleet.model],
            offer=fleet.gpu_type,
            replicas=sum(fleet.counts) if fleet.counts else None,
            cost_usd_per_hour=fleet.cost_usd_per_hour,
            obstacle=""
            if fleet.counts
            else _obstacle(inputs, problem, fleet.model, fleet.gpu_type),
        )
        for fleet in fleets
    )


def _obstacle(inputs: FleetInputs, problem: FleetProblem, model: int, gpu_type: str) -> str:
    """Return the first row that no kind of the type serves, and why; or that rules forbid it."""
    columns = [c for c in problem.columns_of(model) if problem.columns[c].gpu_type == gpu_type]
    for position, r in enumerate(problem.rows_of(model)):
        if all(problem.columns[c].loads[position] is None for c in columns):
            reasons = {inputs.obstacle(c, position) for c in columns}
            return f"cannot serve {problem.rows[r].name}: {min(reasons)}"
    return "a cap or rule forbids as many as it takes"
