"""Replaying a plan: tighten where a percentile misses, take what the replay shows to be spare.

A round solves the program, replays each model's requests on the plan and judges its targets. Where
one is missed, the pools whose own requests miss it get a lower utilisation limit, a tenth under
their planned load, and the next round begins; a part of that where caps or a budget forbid it. A plan that holds is then asked for savings
(`savings.py`), which may load replicas above the limit that planning started from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from planner.fleet.fleet_plan import FleetPlan
from planner.fleet.judging import Judge, Judged, Solved
from planner.fleet.savings import Draw, Saving, SavingsSearch, Spared
from planner.fleet.verification import VerificationReport

TIGHTENING = 0.9
"""A late pool's new limit, as a share of the load it was planned with."""

EASED_PARTS = (0.5, 0.25, 0.125)
"""Parts of a tightening to try where the whole of it leaves no plan."""

LOWEST_LIMIT = 0.02
"""Below this limit a pool is left alone: load is not what makes it late."""

LEAST_USD_PER_HOUR = 1e-6
"""A smaller difference of costs is rounding."""

Limits = Mapping[tuple[str, str], float]
"""Utilisation limit by model and offer."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The plan that verification ends with."""

    judged: Judged
    first: Solved
    """The plan before any tightening."""
    num_rounds: int
    savings: tuple[Saving, ...]
    is_cut: bool = False
    """Whether the rounds ended before tightening did."""
    is_search_cut: bool = False
    """Whether time ended the last search for savings."""


def verified(
    first: Solved,
    *,
    solve: Callable[[Limits], Solved | None],
    judge: Judge,
    num_rounds: int,
    savings_search: SavingsSearch | None,
) -> Verified:
    """Return the first plan of the rounds that meets every target, or the best attained.

    Args:
        first: The plan of the first round.
        solve: The program under other limits; nothing: it has no plan.
        judge: Replays and judges plans.
        num_rounds: Most programs to solve.
        savings_search: Finds what a plan that holds can give up; nothing: it keeps all.

    Raises:
        UnverifiableError: If a plan cannot be replayed.
    """
    limits: dict[tuple[str, str], float] = {}
    best = current = judge.judged(first)
    rounds = 1
    while not current.is_met and rounds < num_rounds:
        tightened = _tightened(limits, current)
        if tightened == limits:
            break
        limits = tightened
        solved = solve(limits) or _eased(current.solved, limits, solve)
        if solved is None:
            break
        rounds += 1
        current = judge.judged(solved)
        best = min(current, best, key=_rank)
    spared = Spared(best, (), is_cut=False)
    if best.is_met and savings_search is not None:
        spared, more_rounds = _spared(
            best, limits, solve=solve, judge=judge, savings_search=savings_search
        )
        rounds += more_rounds
    return Verified(
        spared.judged,
        first,
        rounds,
        spared.savings,
        is_cut=not best.is_met and rounds == num_rounds,
        is_search_cut=spared.is_cut,
    )


def _eased(held: Solved, limits: Limits, solve: Callable[[Limits], Solved | None]) -> Solved | None:
    """Return another fleet than `held` between its loads and limits that caps or a budget forbid.

    A fleet that comes closer to the target is worth having where none reaches it.
    """
    loads = _loads(held.plan)
    for part in EASED_PARTS:
        between = {
            pool: limit + (1 - part) * max(0.0, loads.get(pool, limit) - limit)
            for pool, limit in limits.items()
        }
        solved = solve(between)
        if solved is not None and solved.answer.counts != held.answer.counts:
            return solved
    return None


def _loads(plan: FleetPlan) -> Limits:
    """Return the planned load of each pool."""
    return {
        (row.model, row.offer): min(row.utilisation_fraction, row.utilisation_limit_fraction)
        for row in plan.replicas
    }


def _spared(
    best: Judged,
    limits: Limits,
    *,
    solve: Callable[[Limits], Solved | None],
    judge: Judge,
    savings_search: SavingsSearch,
) -> tuple[Spared, int]:
    """Return the plan after every saving, and how many programs were solved for it.

    A plan that the program finds cheaper at the loads that held is asked for savings in its turn.
    """
    savings: list[Saving] = []
    rounds = 0
    while True:
        found = savings_search.run(best)
        best = found.judged
        savings += found.savings
        if not found.savings:
            return Spared(best, tuple(savings), found.is_cut), rounds
        before = best.solved.answer.cost_usd_per_hour
        limits = {**limits, **_carried(best.solved.plan, limits)}
        best = _certified(best, limits, solve=solve, judge=judge, draw=savings_search.draw)
        rounds += 1
        saved = before - best.solved.answer.cost_usd_per_hour
        if saved < LEAST_USD_PER_HOUR:
            return Spared(best, tuple(savings), found.is_cut), rounds
        savings.append(Saving("planned anew with the loads that held allowed", saved))


def _carried(plan: FleetPlan, limits: Limits) -> Limits:
    """Return limits that allow each offer the load it carries on a plan made under `limits`.

    Loads of a plan are relative to throughputs that a limit above 1 has raised already.
    """
    return {
        (row.model, row.offer): max(row.utilisation_limit_fraction, row.utilisation_fraction)
        * max(1.0, limits.get((row.model, row.offer), 1.0))
        for row in plan.replicas
    }


def _certified(
    judged: Judged,
    limits: Limits,
    *,
    solve: Callable[[Limits], Solved | None],
    judge: Judge,
    draw: Draw,
) -> Judged:
    """Return a plan that gave up replicas with the bound of the program it is a plan of.

    That program is the one under `limits`, which allow each offer the load it now carries. Where it
    has a cheaper plan that holds the targets too, that plan is returned; where it was not solved in
    time, nothing bounds the cost.

    Raises:
        SolverError: If the program's bound lies above the plan's cost.
    """
    final = solve(limits)
    if final is None:
        problem, answer = judged.solved.problem, judged.solved.bounded(0.0)
        return Judged(Solved(problem, answer, draw(problem, answer)), judged.outcomes)
    saved = judged.solved.answer.cost_usd_per_hour - final.answer.cost_usd_per_hour
    if saved >= LEAST_USD_PER_HOUR:
        cheaper = judge.judged(final)
        if cheaper.is_met:
            return cheaper
    answer = judged.solved.bounded(final.answer.bound_usd_per_hour)
    plan = _noted(draw(final.problem, answer), limits)
    return Judged(Solved(final.problem, answer, plan), judged.outcomes)


def _noted(plan: FleetPlan, limits: Limits) -> FleetPlan:
    """Return the plan with a note on each offer that the replay shows faster than stated."""
    notes = tuple(
        f"{row.offer}: the replay shows that each replica holds {limits[row.model, row.offer]:.2f} "
        "times the rates it was planned with; its load is relative to that"
        for row in plan.replicas
        if limits.get((row.model, row.offer), 0.0) > 1
    )
    return plan.model_copy(update={"notes": (*plan.notes, *notes)})


def _rank(judged: Judged) -> tuple[bool, float]:
    """Return the order of preference: plans on time before late ones, then the least late."""
    return not judged.is_met, judged.worst_ratio


def _tightened(limits: Limits, judged: Judged) -> dict[tuple[str, str], float]:
    """Return the limits with those of late pools lowered."""
    tightened = dict(limits)
    loads = _loads(judged.solved.plan)
    for model, outcomes in judged.outcomes.items():
        for outcome in outcomes:
            if outcome.is_met:
                continue
            for pool in outcome.missing_pools:
                limit = TIGHTENING * loads[model, pool.pool]
                if limit >= LOWEST_LIMIT:
                    tightened[model, pool.pool] = limit
    return tightened


def with_report(verified: Verified, judge: Judge) -> FleetPlan:
    """Return the verified plan's document with its report."""
    judged = verified.judged
    report = VerificationReport(
        status="met" if judged.is_met else "best attained",
        replayed=judge.words,
        num_requests=judge.num_requests,
        replayed_seconds=judge.duration_seconds,
        num_samples=judge.num_samples,
        num_rounds=verified.num_rounds,
        cost_before_usd_per_hour=verified.first.plan.cost_usd_per_hour,
        savings=tuple(str(saving) for saving in verified.savings),
        targets=judged.targets(),
    )
    plan = judged.solved.plan
    notes = plan.notes
    if verified.is_cut:
        rounds = verified.num_rounds
        notes += (f"tightening ended after {rounds} rounds; raise verification.rounds to go on",)
    return plan.model_copy(
        update={
            "notes": notes,
            "verification": report,
            "latency_verified": report.is_verified,
            "latency": report.in_words,
        }
    )
