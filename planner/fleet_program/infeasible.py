"""Why no fleet serves everything, in words: the row nobody serves, or what binds and what would help.

Every family of constraints (`relaxations`) is left out alone: those whose absence makes a plan possible
are named, each with the smallest change of it that helps. Where no single one does, a smallest set is
found by leaving all out and putting back each that may stay.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.errors import SolverError
from planner.fleet_program.cap_raises import enough_caps, smallest_caps
from planner.fleet_program.limits import Scenario, scenarios
from planner.fleet_program.problem import FleetProblem, ReplicaColumn, ShareRow
from planner.fleet_program.relaxations import Relaxation, relaxations, with_rule
from planner.fleet_program.solve import WHOLE_SHARES, num_shares, solve, unservable_rows
from planner.solvers import SolverChain


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a column cannot serve a row."""

    text: str
    """Such as `needs 48 GiB of 24`; what would help may follow behind a semicolon."""
    over_limit: float | None = None
    """How many times its limit a latency is; nothing: another reason."""

    @property
    def what(self) -> str:
        """The reason alone."""
        return self.text.partition(";")[0]


WhyNot = Callable[[ReplicaColumn, ShareRow], Hindrance]

ANY_PLAN_GAP = 1.0
CHEAPEST_GAP = 1e-6
SECONDS_EACH = 20.0
"""For each question whether a plan exists; one that is not answered counts as no."""

NAMED_OFFERS = 6
"""How many offers a message names before it counts the rest."""

SPOT_STEP_FRACTION = 0.01
"""To what a spot limit that helps is rounded up."""


def explain(
    problem: FleetProblem,
    *,
    solver: SolverChain,
    clock: Callable[[], float],
    why_not: WhyNot = lambda column, row: Hindrance("cannot serve it"),
) -> str:
    """Return in one line what makes an infeasible problem infeasible, and what would help.

    Raises:
        SolverError: If no solver works.
    """
    rows = unservable_rows(problem)
    if rows:
        return _unservable(problem, rows, why_not)
    question = _Question(solver, clock)
    stated = relaxations(problem)
    alone = [family for family in stated if question.has_plan(family.without(problem))]
    if alone:
        causes = [_alone(problem, family, question) for family in alone]
        return "; or ".join(causes)
    together = _smallest_set(problem, stated, question)
    words = ", ".join(family.words for family in together)
    stranded = _stranded(problem)
    return f"no plan meets all of {words} together{stranded}; loosen more than one of them"


class _Question:
    """Asks whether problems have plans, and what the cheapest costs."""

    def __init__(self, solver: SolverChain, clock: Callable[[], float]) -> None:
        self.solver, self._clock = solver, clock

    def has_plan(self, problem: FleetProblem) -> bool:
        return bool(self.counts(problem, ANY_PLAN_GAP))

    def counts(self, problem: FleetProblem, gap: float) -> tuple[int, ...]:
        answer = solve(
            problem,
            solver=self.solver,
            time_limit_seconds=SECONDS_EACH,
            gap_fraction=gap,
            clock=self._clock,
        )
        return answer.counts

    def plan(self, problem: FleetProblem, gap: float) -> tuple[int, ...]:
        """Return the counts of a problem that has a plan.

        Raises:
            SolverError: If none was found in time.
        """
        counts = self.counts(problem, gap)
        if not counts:
            raise SolverError(
                f"no plan was found within {SECONDS_EACH:g} s where there is one; "
                "ask again when the machine is less busy"
            )
        return counts


def _unservable(problem: FleetProblem, rows: tuple[int, ...], why_not: WhyNot) -> str:
    row = problem.rows[rows[0]]
    columns = [problem.columns[o] for o in problem.columns_of(row.model)]
    hindrances = [(column.offer, why_not(column, row)) for column in columns]
    more = f" and {len(rows) - 1} more sizes" if len(rows) > 1 else ""
    start = f"no offer can serve {row.name} of {problem.models[row.model]}{more}"
    late = [(h.over_limit, offer, h.what) for offer, h in hindrances if h.over_limit is not None]
    if late and len(late) == len(columns):
        _, offer, what = min(late)
        num_others = len(columns) - 1
        others = f"; nor can the other {num_others}" if num_others else ""
        return (
            f"{start}: on {offer}, which comes nearest, {what}{others}; loosen the limit, add a "
            "faster offer, or leave out these requests"
        )
    causes = [f"{offer}: {hindrance.text}" for offer, hindrance in hindrances[:NAMED_OFFERS]]
    if len(columns) > NAMED_OFFERS:
        causes.append(f"and {len(columns) - NAMED_OFFERS} more")
    return (
        f"{start} ({', '.join(causes) or 'there is no offer'}); "
        "add an offer that can, or leave out these requests"
    )


def _alone(problem: FleetProblem, family: Relaxation, question: _Question) -> str:
    change = {
        "caps": _raised_caps,
        "budget_usd_per_hour": _raised_budget,
        "spot_fraction_limit": _raised_spot_limit,
        "max_change_replicas": _raised_change,
        "survive_one_market": _second_market,
    }.get(family.key)
    if change is None:
        return f"{family.words} cannot be met; set {family.key} lower or leave it out"
    return change(problem, question)


def _raised_caps(problem: FleetProblem, question: _Question) -> str:
    if num_shares(problem) <= WHOLE_SHARES:
        limits, way = smallest_caps(problem, question.solver), "the smallest change is to raise"
    else:
        counts = question.plan(replace(problem, caps=()), 0.05)
        limits, way = enough_caps(problem, counts), "it is enough to raise"
    raised = [
        f"{cap.name} from {cap.limit} to {limit} {cap.unit}"
        for cap, limit in zip(problem.caps, limits, strict=True)
        if limit > cap.limit
    ]
    if not raised:
        return "the caps leave no room beyond rounding; raise one of them by 1"
    return f"the caps bind: {way} {', '.join(raised)}"


def _raised_budget(problem: FleetProblem, question: _Question) -> str:
    free = with_rule(problem, "budget_usd_per_hour", None)
    counts = question.plan(free, CHEAPEST_GAP)
    pairs = zip(problem.columns, counts, strict=True)
    cost = sum(column.price_usd_per_hour * count for column, count in pairs)
    budget = problem.rules.budget_usd_per_hour
    # Up to the next cent, so that the number printed is enough.
    enough = math.ceil(cost * 100 - 1e-6) / 100
    return f"the budget of {budget:g} USD/h binds: raise it to {enough:.2f} USD/h"


def _raised_spot_limit(problem: FleetProblem, question: _Question) -> str:
    low, high = problem.rules.spot_fraction_limit or 0.0, 1.0
    while high - low > SPOT_STEP_FRACTION / 2:
        middle = (low + high) / 2
        if question.has_plan(with_rule(problem, "spot_fraction_limit", middle)):
            high = middle
        else:
            low = middle
    return (
        f"the spot limit of {problem.rules.spot_fraction_limit:g} binds: "
        f"raise it to about {high:.3g}, or add offers that are not spot"
    )


def _raised_change(problem: FleetProblem, question: _Question) -> str:
    asked = problem.rules.max_change_replicas or 0
    counts = question.plan(with_rule(problem, "max_change_replicas", None), ANY_PLAN_GAP)
    # That plan's own change is enough; the smallest lies between it and what is asked.
    low, high = (
        asked,
        max(
            abs(count - column.current_replicas)
            for column, count in zip(problem.columns, counts, strict=True)
            if column.current_replicas is not None
        ),
    )
    while high - low > 1:
        middle = (low + high) // 2
        fits = question.has_plan(with_rule(problem, "max_change_replicas", middle))
        low, high = (low, middle) if fits else (middle, high)
    return f"the change of at most {asked} replicas an offer binds: raise it to {high}"


def _second_market(problem: FleetProblem, question: _Question) -> str:
    return (
        f"surviving the loss of one market cannot be met{_stranded(problem)}; "
        "add offers or raise caps in another market, or leave it out"
    )


def _stranded(problem: FleetProblem) -> str:
    # The first row that a lost market leaves without any offer.
    for scenario in scenarios(problem):
        for r, row in enumerate(problem.rows):
            if scenario.lost_market is not None and not _is_served(problem, r, scenario):
                where = f"in market {scenario.lost_market!r} only"
                return f" ({row.name} of {problem.models[row.model]} is served {where})"
    return ""


def _is_served(problem: FleetProblem, r: int, scenario: Scenario) -> bool:
    model = problem.rows[r].model
    place = problem.rows_of(model).index(r)
    return any(
        scenario.has(problem.columns[o]) and problem.columns[o].loads[place] is not None
        for o in problem.columns_of(model)
    )


def _smallest_set(
    problem: FleetProblem, stated: tuple[Relaxation, ...], question: _Question
) -> tuple[Relaxation, ...]:
    # Each family in turn is put back if a plan remains; what stays out is a smallest set.
    out = list(stated)
    for family in stated:
        rest = [other for other in out if other is not family]
        candidate = problem
        for other in rest:
            candidate = other.without(candidate)
        if question.has_plan(candidate):
            out = rest
    return tuple(out)
