"""`motley plan explain`: what binds a plan, what one more or one fewer of each offer is worth."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from planner.fleet.fleet_plan import FleetPlan
from planner.fleet.judging import Solved
from planner.fleet.money import usd
from planner.fleet.plan_document import FleetInputs, column_loads
from planner.fleet.report import comparison_line, fleet_line
from planner.fleet_program.sensitivity import (
    SPOT_LIMIT,
    WhatIfs,
    binding,
    one_more_and_one_fewer,
)
from planner.solvers import SolverChain

EXACT_USD_PER_HOUR = 1e-6
"""Uncertainty below this is the solver's rounding."""


@dataclass(frozen=True, slots=True)
class RateLimit:
    """What ends the rate of one offer."""

    model: str
    offer: str
    shares_fraction: dict[str, float]
    """Limit to the share of the offer's load that it ends; `stated` where the file gives rates."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why the plan is as it is."""

    binding: tuple[str, ...]
    """Caps, budget and spot limits that are exhausted."""
    rate_limits: tuple[RateLimit, ...]
    """By offer in use."""
    changes: WhatIfs
    """Other fleets, each with one number changed by one."""


def explanation(
    inputs: FleetInputs,
    solved: Solved,
    *,
    solver: SolverChain,
    seconds: float,
    gap_fraction: float,
    clock: Callable[[], float],
) -> Explanation:
    """Return what binds the solved program and what changes would cost.

    Args:
        inputs: The file, looked up.
        solved: The program and its plan.
        solver: Who solves the changed programs.
        seconds: For all of them together; what is not reached is left out.
        gap_fraction: Relative gap at which each search may stop.
        clock: Seconds from any start.
    """
    problem, answer = solved.problem, solved.answer
    changes = one_more_and_one_fewer(
        problem, answer, solver=solver, seconds=seconds, gap_fraction=gap_fraction, clock=clock
    )
    return Explanation(binding(problem, answer), _rate_limits(inputs, solved), changes)


def _rate_limits(inputs: FleetInputs, solved: Solved) -> tuple[RateLimit, ...]:
    loads = column_loads(solved.problem, solved.answer.shares)
    limits = []
    for c, kind in enumerate(inputs.kinds):
        if not solved.answer.counts[c] or not loads[c]:
            continue
        by_limit: defaultdict[str, float] = defaultdict(float)
        model = inputs.models[kind.model]
        groups = [group for group in inputs.groups() if group.model == kind.model]
        rows = solved.problem.rows_of(kind.model)
        for group, r in zip(groups, rows, strict=True):
            share = dict(solved.answer.shares[r]).get(c, 0.0)
            for s in group.sizes if share else ():
                rate = kind.speed.rates[s]
                load = model.sizes()[s].rate_requests_per_second / rate.requests_per_second
                by_limit[rate.binding or kind.source] += share * load / loads[c]
        limits.append(RateLimit(model.name, kind.name, _largest_first(by_limit)))
    return tuple(limits)


def _largest_first(shares: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


def print_explanation(plan: FleetPlan, found: Explanation, console: Console) -> None:
    """Print what binds, what changes cost, and the alternatives of a single type."""
    console.print(fleet_line(plan), markup=False, soft_wrap=True)
    console.print(
        "latency not verified: `motley plan fleet` replays requests and may add replicas to this fleet "
        "or give some up",
        markup=False,
        soft_wrap=True,
    )
    for text in _gathered(found.binding):
        console.print(f"binds: {text}", markup=False, soft_wrap=True)
    if not found.binding:
        console.print("binds: no cap, budget or spot limit; prices and speeds alone decide")
    console.print(_limits_table(found))
    console.print(_changes_table(found.changes))
    if found.changes.num_left:
        left = f"{found.changes.num_left} more changes not reached in time"
        console.print(f"note: {left}; raise --changes-seconds", markup=False, soft_wrap=True)
    console.print(comparison_line(plan), markup=False, soft_wrap=True)


def _limits_table(found: Explanation) -> Table:
    table = Table(title="what ends the rate of each offer in use, by its load")
    for title in ("model", "offer", "limits"):
        table.add_column(title, overflow="fold")
    for row in found.rate_limits:
        words = ", ".join(f"{name} {share:.0%}" for name, share in row.shares_fraction.items())
        table.add_row(row.model, row.offer, words)
    return table


def _gathered(names: Sequence[str]) -> list[str]:
    """Return what binds, the spot limits of several rows as one."""
    spot = [name for name in names if name.startswith(SPOT_LIMIT)]
    if len(spot) < 2:
        return list(names)
    others = [name for name in names if name not in spot]
    return [*others, f"max_spot_fraction, in {len(spot)} input ranges"]


def _changes_table(changes: WhatIfs) -> Table:
    table = Table(title="one more and one fewer, the rest chosen anew")
    table.add_column("of", overflow="fold")
    for title in ("change", "$/h", "within"):
        table.add_column(title, justify="right")
    for row in changes.rows:
        cost = row.cost_change_usd_per_hour
        words = row.status if cost is None else ("-" if cost < 0 else "+") + usd(abs(cost))
        exact = row.uncertain_usd_per_hour < EXACT_USD_PER_HOUR
        certain = "" if cost is None else "exact" if exact else usd(row.uncertain_usd_per_hour)
        table.add_row(row.name, f"{row.change:+d}" if row.change else "", words, certain)
    return table
