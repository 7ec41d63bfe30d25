"""The plan's comparison: what each type of device alone would cost for each model."""

from collections.abc import Callable

from planner.fleet.fleet_plan import SingleTypeFleet
from planner.fleet.plan_document import FleetInputs
from planner.fleet_program import single_type
from planner.fleet_program.problem import FleetProblem
from planner.solvers import SolverChain


def single_type_fleets(
    inputs: FleetInputs,
    problem: FleetProblem,
    *,
    solver: SolverChain,
    clock: Callable[[], float],
) -> tuple[SingleTypeFleet, ...]:
    """Return the cheapest fleet of each type for each model, all rules and caps kept."""
    fleets = single_type.best_single_types(problem, solver=solver, clock=clock)
    return tuple(
        SingleTypeFleet(
            model=problem.models[fleet.model],
            offer=fleet.gpu_type,
            replicas=sum(fleet.counts) if fleet.counts else None,
            cost_usd_per_hour=fleet.cost_usd_per_hour,
            obstacle="" if fleet.counts else _obstacle(inputs, problem, fleet),
            is_proven=fleet.status in ("optimal", "infeasible"),
        )
        for fleet in fleets
    )


def _obstacle(
    inputs: FleetInputs, problem: FleetProblem, fleet: single_type.SingleTypeFleet
) -> str:
    """Return the first row that no kind of the type serves, and why; or what else forbids it."""
    if fleet.status == "time_limit":
        return f"not known: none found in {single_type.SECONDS_EACH:g} s"
    columns = [
        c for c in problem.columns_of(fleet.model) if problem.columns[c].gpu_type == fleet.gpu_type
    ]
    for position, r in enumerate(problem.rows_of(fleet.model)):
        if all(problem.columns[c].loads[position] is None for c in columns):
            hindrances = [inputs.obstacle(c, position) for c in columns]
            reasons = [hindrance.text for hindrance in hindrances if hindrance is not None]
            return f"cannot serve {problem.rows[r].name}: {min(reasons)}"
    return "a cap or rule forbids as many as it takes"
