"""`plan_fleet`: from a file's content to a plan, or to the reason why there is none."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from planner.fleet_config import FleetConfig
from planner.fleet_plan import (
    LATENCY_NOT_VERIFIED,
    FleetPlan,
    PlannedReplicas,
    PlannedSize,
    SingleTypeFleet,
)
from planner.fleet_problem import FleetProblem, problem_of
from planner.ilp import SEARCH_GAP_FRACTION, FleetCounts, cheapest_counts
from planner.infeasible import short_caps, unservable_size
from planner.shares import Shares, spread_load
from planner.single_type import single_type
from planner.solvers import SolverChain, default_solvers

TIME_LIMIT_SECONDS = 60.0
"""How long the search for the cheapest counts may take unless told otherwise."""


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """What planning came to."""

    status: Literal["optimal", "feasible", "infeasible", "time_limit"]
    """`feasible`: a plan with an open gap. `time_limit`: no plan was found in time."""
    plan: FleetPlan | None
    """The plan, where there is one."""
    reason: str
    """Why there is none, in one line; empty where there is one."""


def plan_fleet(
    config: FleetConfig,
    *,
    solver: SolverChain | None = None,
    time_limit_seconds: float = TIME_LIMIT_SECONDS,
    gap_fraction: float = SEARCH_GAP_FRACTION,
    clock: Callable[[], float] = time.perf_counter,
) -> FleetOutcome:
    """Return the cheapest fleet for the workload of `config`.

    Args:
        config: Model, workload and offers.
        solver: Who solves the programs; HiGHS, then CBC, by default.
        time_limit_seconds: For the search of the replica counts, above 0.
        gap_fraction: Relative gap at which that search may stop.
        clock: Seconds from any start.

    Raises:
        SolverError: If no solver works.
    """
    started = clock()
    solver = solver or default_solvers()
    problem = problem_of(config)
    obstacle = unservable_size(problem)
    if obstacle is not None:
        return FleetOutcome("infeasible", None, obstacle)
    counts = cheapest_counts(
        problem,
        solver,
        time_limit_seconds=time_limit_seconds,
        gap_fraction=gap_fraction,
        clock=clock,
    )
    if counts.status == "infeasible":
        return FleetOutcome("infeasible", None, short_caps(problem, solver))
    if counts.status == "time_limit":
        reason = f"no plan was found within {time_limit_seconds:g} s; raise the time limit"
        return FleetOutcome("time_limit", None, reason)
    shares = spread_load(problem, counts.counts, solver)
    plan = FleetPlan(
        status=counts.status,
        cost_usd_per_hour=counts.cost_usd_per_hour,
        bound_usd_per_hour=counts.bound_usd_per_hour,
        gap_fraction=counts.gap_fraction,
        solver=counts.solver,
        solver_fallbacks=solver.num_fallbacks,
        solve_seconds=clock() - started,
        latency_verified=False,
        latency=LATENCY_NOT_VERIFIED,
        replicas=_replicas(config, problem, counts, shares),
        sizes=_sizes(config, problem, shares),
        single_type=_single_types(config, problem),
    )
    return FleetOutcome(counts.status, plan, "")


def _replicas(
    config: FleetConfig, problem: FleetProblem, counts: FleetCounts, shares: Shares
) -> tuple[PlannedReplicas, ...]:
    rows = []
    for o, (offer, count) in enumerate(zip(config.offers, counts.counts, strict=True)):
        if count == 0:
            continue
        load = sum(problem.load_replicas(s, o) * row[o] for s, row in enumerate(shares) if row[o])
        row = PlannedReplicas(
            model=config.model,
            offer=offer.name,
            replicas=count,
            max_replicas=offer.max_replicas,
            price_usd_per_hour=offer.price_usd_per_hour,
            cost_usd_per_hour=count * offer.price_usd_per_hour,
            load_replicas=load,
            utilisation_fraction=load / count,
            utilisation_limit_fraction=config.limit_fraction(offer),
            engine_arguments=offer.engine_arguments,
        )
        rows.append(row)
    return tuple(rows)


def _sizes(config: FleetConfig, problem: FleetProblem, shares: Shares) -> tuple[PlannedSize, ...]:
    by_size = dict(zip(problem.sizes, shares, strict=True))
    names = [offer.name for offer in config.offers]
    return tuple(
        PlannedSize(
            model=config.model,
            input_tokens_over=size.input_tokens_over,
            input_tokens_up_to=size.input_tokens_up_to,
            output_tokens_over=size.output_tokens_over,
            output_tokens_up_to=size.output_tokens_up_to,
            rate_requests_per_second=size.rate_requests_per_second,
            shares_fraction={
                name: share
                for name, share in zip(names, by_size.get(size, ()), strict=False)
                if share > 0
            },
        )
        for size in config.workload.sizes()
    )


def _single_types(config: FleetConfig, problem: FleetProblem) -> tuple[SingleTypeFleet, ...]:
    fleets = ((offer.name, single_type(problem, o)) for o, offer in enumerate(config.offers))
    return tuple(
        SingleTypeFleet(
            model=config.model,
            offer=name,
            replicas=fleet.replicas,
            cost_usd_per_hour=fleet.cost_usd_per_hour,
            obstacle=fleet.obstacle,
        )
        for name, fleet in fleets
    )
