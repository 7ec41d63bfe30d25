"""What binds a plan, and what each rule, cap and offer costs or is worth: by solving again.

Integer programs have no duals: the only honest price of a GPU is the difference of two optima. Each
answer carries bounds, so that a difference within the gaps is not taken for a price.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.fleet_program.answer import FleetAnswer, Status
from planner.fleet_program.cap_raises import cap_use
from planner.fleet_program.problem import Cap, FleetProblem
from planner.fleet_program.relaxations import relaxations
from planner.fleet_program.solve import solve
from planner.solvers import SolverChain

_Case = tuple[str, int, FleetProblem]
"""Name and change of a `WhatIf`, and the problem to solve."""

SPOT_LIMIT = "spot limit of"
"""How the name of a row's exhausted spot limit begins."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """The same problem with one number changed by one, or without one rule."""

    name: str
    """The cap's name, `model/offer`, or the rule that is left out."""
    change: int
    """+1 or -1; 0: a rule is left out."""
    status: Status
    cost_change_usd_per_hour: float | None
    """Against the plan; None: no plan."""
    uncertain_usd_per_hour: float
    """How much of the change the two gaps may account for."""


@dataclass(frozen=True, slots=True)
class WhatIfs:
    """Changes by one, as far as the time went."""

    rows: tuple[WhatIf, ...]
    num_left: int
    """Changes that were not reached."""


def binding(problem: FleetProblem, answer: FleetAnswer) -> tuple[str, ...]:
    """Return the names of what a plan exhausts: caps, the budget, spot limits."""
    names = []
    for cap in problem.caps:
        left = cap.limit - cap_use(problem, cap, answer.counts)
        smallest = min((cap.use_of(problem.columns[o]) for o in cap.columns), default=0)
        if cap.columns and left < smallest:
            names.append(cap.name)
    rules = problem.rules
    prices = [c.price_usd_per_hour for c in problem.columns if c.price_usd_per_hour > 0]
    if rules.budget_usd_per_hour is not None:
        left_usd = rules.budget_usd_per_hour - answer.cost_usd_per_hour
        if left_usd < min(prices, default=0.0):
            names.append("budget")
    names += _full_spot_rows(problem, answer)
    return tuple(names)


def one_more_and_one_fewer(
    problem: FleetProblem,
    answer: FleetAnswer,
    *,
    solver: SolverChain,
    seconds: float,
    gap_fraction: float,
    clock: Callable[[], float],
) -> WhatIfs:
    """Return what each rule costs, and one more and one fewer of each cap in use and of each offer.

    Of a cap that is one unit; of an offer, at least one replica more than it has and at most one
    fewer. The rest is chosen anew. Offers in use come before the others; one that serves nothing is
    left out. What is solved shares the time evenly.
    """
    cases = [
        *_rule_cases(problem),
        *_cap_cases(problem, answer),
        *_offer_cases(problem, answer),
    ]
    deadline = clock() + seconds
    rows = []
    for left, (name, change, changed) in zip(range(len(cases), 0, -1), cases, strict=True):
        remaining = deadline - clock()
        if remaining <= 0:
            break
        other = solve(
            changed,
            solver=solver,
            time_limit_seconds=max(remaining / left, 0.1),
            gap_fraction=gap_fraction,
            clock=clock,
        )
        rows.append(_what_if(name, change, answer, other))
    return WhatIfs(tuple(rows), len(cases) - len(rows))


def _rule_cases(problem: FleetProblem) -> list[_Case]:
    return [
        (f"without {family.words}", 0, family.without(problem))
        for family in relaxations(problem)
        if family.key != "caps"
    ]


def _cap_cases(problem: FleetProblem, answer: FleetAnswer) -> list[_Case]:
    return [
        (cap.name, change, _with_cap(problem, number, change))
        for number, cap in enumerate(problem.caps)
        if cap_use(problem, cap, answer.counts) > 0
        for change in (1, -1)
        if cap.limit + change >= 0
    ]


def _offer_cases(problem: FleetProblem, answer: FleetAnswer) -> list[_Case]:
    by_use = sorted(range(len(answer.counts)), key=lambda o: answer.counts[o] == 0)
    cases = []
    for o in by_use:
        column, count = problem.columns[o], answer.counts[o]
        name = f"{problem.models[column.model]}/{column.offer}"
        if any(column.loads):
            cases.append((name, 1, _with_column(problem, o, min_replicas=count + 1)))
        if count > 0:
            fewer = Cap(name, count - 1, (o,), "replicas")
            cases.append((name, -1, replace(problem, caps=(*problem.caps, fewer))))
    return cases


def _with_column(problem: FleetProblem, o: int, *, min_replicas: int) -> FleetProblem:
    changed = replace(problem.columns[o], min_replicas=min_replicas)
    return replace(problem, columns=(*problem.columns[:o], changed, *problem.columns[o + 1 :]))


def _with_cap(problem: FleetProblem, number: int, change: int) -> FleetProblem:
    cap = problem.caps[number]
    changed = replace(cap, limit=cap.limit + change)
    caps = (*problem.caps[:number], changed, *problem.caps[number + 1 :])
    return replace(problem, caps=caps)


def _what_if(name: str, change: int, answer: FleetAnswer, other: FleetAnswer) -> WhatIf:
    if not other.counts:
        return WhatIf(name, change, other.status, None, 0.0)
    uncertain = sum(one.cost_usd_per_hour - one.bound_usd_per_hour for one in (answer, other))
    difference = other.cost_usd_per_hour - answer.cost_usd_per_hour
    return WhatIf(name, change, other.status, difference, max(0.0, uncertain))


def _full_spot_rows(problem: FleetProblem, answer: FleetAnswer) -> list[str]:
    limit = problem.rules.spot_fraction_limit
    if limit is None or limit >= 1:
        return []
    return [
        f"{SPOT_LIMIT} {row.name} of {problem.models[row.model]}"
        for r, row in enumerate(problem.rows)
        if _spot_serves(problem, r)
        and sum(share for o, share in answer.shares[r] if problem.columns[o].is_spot)
        >= limit - 1e-6
    ]


def _spot_serves(problem: FleetProblem, r: int) -> bool:
    place = problem.rows_of(problem.rows[r].model).index(r)
    columns = [problem.columns[o] for o in problem.columns_of(problem.rows[r].model)]
    return any(column.is_spot and column.loads[place] is not None for column in columns)
