"""Replicas that a plan can give up: removed, or swapped for a cheaper offer, and still on time.

Throughputs are means over a steady stream and limits leave room for bursts, so a verified plan may
hold its targets with less. Single removals and swaps for the next cheaper offer are replayed, the
dearest first, then swaps for every cheaper offer, until none is left that meets every target. With
one replica fewer the load is shared out anew, as evenly as can be; where the program cannot carry
it, shares stay, and those of an offer that is gone pass to the others in proportion. A measured
replica never gets more than it was measured to keep pace with.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import SolverError, WorkloadError
from planner.fleet.fleet_plan import FleetPlan
from planner.fleet.judging import Judge, Judged, Solved, worst_ratio
from planner.fleet.plan_document import column_loads
from planner.fleet_program.answer import FleetAnswer, Shares
from planner.fleet_program.balance import balanced_shares
from planner.fleet_program.limits import Scenario, cost_usd_per_hour, count_rows
from planner.fleet_program.problem import FleetProblem
from planner.simulator.judgement import TargetOutcome
from planner.solvers import SolverChain

Draw = Callable[[FleetProblem, FleetAnswer], FleetPlan]
"""Makes the plan's document."""


@dataclass(frozen=True, slots=True)
class Saving:
    """One replica given up."""

    text: str
    """Which, in words."""
    usd_per_hour: float
    """What it saves."""

    def __str__(self) -> str:
        return f"{self.text}: ${self.usd_per_hour:,.2f}/h less"


@dataclass(frozen=True, slots=True)
class Spared:
    """What a search came to."""

    judged: Judged
    """The plan after the savings."""
    savings: tuple[Saving, ...]
    is_cut: bool
    """Whether time ended it: more may be spare."""


@dataclass(frozen=True, slots=True)
class _Move:
    column: int
    instead: int | None
    """Column that gains a replica; nothing: the replica is removed."""
    usd_per_hour: float
    rank: int = 0
    """How many offers lie between the two by price: nearer ones are tried first."""

    def applied(self, counts: Sequence[int]) -> tuple[int, ...]:
        moved = list(counts)
        moved[self.column] -= 1
        if self.instead is not None:
            moved[self.instead] += 1
        return tuple(moved)


@dataclass(frozen=True, slots=True)
class SavingsSearch:
    """Looks for savings one after another."""

    judge: Judge
    draw: Draw
    solver: SolverChain
    is_time_up: Callable[[], bool]
    """Asked before each replay; then the search ends with what it has."""

    def run(self, judged: Judged) -> Spared:
        """Return the plan after every saving that a replay allows.

        Args:
            judged: A plan that meets every target and is to survive no loss.
        """
        savings: list[Saving] = []
        while not isinstance(found := self._next(judged), str):
            judged, saving = found
            savings.append(saving)
        return Spared(judged, tuple(savings), found == "time is up")

    def _next(self, judged: Judged) -> tuple[Judged, Saving] | Literal["none left", "time is up"]:
        problem, counts = judged.solved.problem, judged.solved.answer.counts
        for move in _moves(problem, counts):
            if not _is_allowed(problem, move.applied(counts)):
                continue
            if self.is_time_up():
                return "time is up"
            moved = self._moved(judged, move)
            if moved is not None:
                return moved, Saving(_text(problem, move), move.usd_per_hour)
        return "none left"

    def _moved(self, judged: Judged, move: _Move) -> Judged | None:
        """Return the plan after the move, if a replay meets the model's targets on it."""
        problem, answer = judged.solved.problem, judged.solved.answer
        counts = move.applied(answer.counts)
        number = problem.columns[move.column].model
        model = problem.models[number]
        for shares in _shares_of(problem, answer, counts, model=number, solver=self.solver):
            if not _keeps_pace(problem, counts, shares):
                continue
            cheaper = _with(problem, answer, counts, shares)
            plan = self.draw(problem, cheaper)
            outcomes = self._outcomes(plan, model)
            if outcomes is not None and worst_ratio(outcomes) <= 1:
                return Judged(Solved(problem, cheaper, plan), {**judged.outcomes, model: outcomes})
        return None

    def _outcomes(self, plan: FleetPlan, model: str) -> tuple[TargetOutcome, ...] | None:
        try:
            return self.judge.of_model(plan, model)
        except WorkloadError:
            return None  # Some request fits none of the replicas that are left for it.


def _keeps_pace(problem: FleetProblem, counts: Sequence[int], shares: Shares) -> bool:
    """Tell whether no measured replica gets more than it was measured to keep pace with.

    Its fitted steps are not asked: they were fitted below, and a replay's end hides a slow growth.
    """
    loads = column_loads(problem, shares)
    return all(
        load <= count * column.most_load_fraction + 1e-9
        for column, count, load in zip(problem.columns, counts, loads, strict=True)
        if count and math.isfinite(column.most_load_fraction)
    )


def _with(
    problem: FleetProblem, answer: FleetAnswer, counts: tuple[int, ...], shares: Shares
) -> FleetAnswer:
    cost = cost_usd_per_hour(problem, counts)
    return replace(
        answer,
        status="feasible",
        counts=counts,
        shares=shares,
        cost_usd_per_hour=cost,
        bound_usd_per_hour=min(answer.bound_usd_per_hour, cost),
    )


def _moves(problem: FleetProblem, counts: Sequence[int]) -> Iterator[_Move]:
    """Yield removals and swaps that save something: next cheaper first, then the largest saving."""
    moves = []
    for c, count in enumerate(counts):
        price = problem.columns[c].price_usd_per_hour
        if not count or price <= 0:
            continue
        moves.append(_Move(c, None, price))
        cheaper = sorted(
            (price - problem.columns[other].price_usd_per_hour, other)
            for other in problem.columns_of(problem.columns[c].model)
            if problem.columns[other].price_usd_per_hour < price
            and any(load is not None for load in problem.columns[other].loads)
        )
        moves += [_Move(c, other, saved, rank) for rank, (saved, other) in enumerate(cheaper)]
    yield from sorted(moves, key=lambda move: (move.rank, -move.usd_per_hour))


def _is_allowed(problem: FleetProblem, counts: Sequence[int]) -> bool:
    """Tell whether counts keep caps, minima and the bounded change."""
    rules = problem.rules
    step = rules.max_change_replicas
    for column, count in zip(problem.columns, counts, strict=True):
        if 0 < count < rules.min_replicas_used:
            return False
        current = column.current_replicas
        if step is not None and current is not None and abs(count - current) > step:
            return False
    return all(
        row.lower <= sum(weight * counts[c] for c, weight in row.terms) <= row.upper
        for row in count_rows(problem)
    )


def _shares_of(
    problem: FleetProblem,
    answer: FleetAnswer,
    counts: tuple[int, ...],
    *,
    model: int,
    solver: SolverChain,
) -> Iterator[Shares]:
    """Yield the shares to try: a model's shared out evenly where it has capacity, and as they were."""
    full = replace(
        problem,
        columns=tuple(
            replace(column, utilisation_limit_fraction=1.0) for column in problem.columns
        ),
    )
    with suppress(SolverError):  # Above capacity by the throughputs: the replay decides.
        balanced = balanced_shares(full, counts, Scenario(), solver)
        # Other models were replayed with the shares they have.
        yield tuple(
            new if row.model == model else old
            for row, new, old in zip(problem.rows, balanced, answer.shares, strict=True)
        )
    kept = _kept(answer.shares, counts)
    if kept is not None and _keeps_spot_limit(problem, kept):
        yield kept


def _kept(shares: Shares, counts: Sequence[int]) -> Shares | None:
    rows = []
    for row in shares:
        left = [(c, share) for c, share in row if counts[c]]
        total = sum(share for _, share in left)
        if total == 0:
            return None
        rows.append(tuple((c, share / total) for c, share in left))
    return tuple(rows)


def _keeps_spot_limit(problem: FleetProblem, shares: Shares) -> bool:
    limit = problem.rules.spot_fraction_limit
    return limit is None or all(
        sum(share for c, share in row if problem.columns[c].is_spot) <= limit + 1e-9
        for row in shares
    )


def _text(problem: FleetProblem, move: _Move) -> str:
    column = problem.columns[move.column]
    model = f" of {problem.models[column.model]}" if len(problem.models) > 1 else ""
    if move.instead is None:
        return f"1 x {column.offer}{model} removed"
    return f"1 x {column.offer}{model} swapped for 1 x {problem.columns[move.instead].offer}"
