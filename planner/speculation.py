"""Whether to draft, where, and how much: from costs, acceptance, memory and load to one plan.

Pure, and without torch: the engine asks it at start and whenever load or acceptance have moved,
`motley plan speculate` asks it with predicted costs.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from planner.drafting.candidate import (
    Candidate,
    DraftPlace,
    Load,
    Overlap,
    speculation,
    without_speculation,
)
from planner.drafting.cost_curve import CostCurve
from planner.drafting.draft_tree import Acceptance, DraftTree, best_trees, checked_acceptance
from planner.drafting.reasons import choice_reasons, place_reason, room_reason


@dataclass(frozen=True, slots=True)
class SpeculationPlan:
    """The choice, what it was chosen over, and why."""

    chosen: Candidate
    """What to do; without a device: no speculation."""
    runner_up: Candidate | None
    """The best other size or place; nothing: there was no other way."""
    without: Candidate
    """No speculation, as it compares."""
    candidates: tuple[Candidate, ...]
    """The best of each place and number of rows, no speculation first."""
    reasons: tuple[str, ...]
    """In words: who holds the draft, what bounds the tree, why this choice."""


def plan_speculation(
    target: CostCurve,
    places: Sequence[DraftPlace],
    acceptance: Sequence[Sequence[float]],
    *,
    load: Load | None = None,
    overlap: Overlap | None = None,
    min_speed_up: float = 1.0,
    most_rows: int | None = None,
) -> SpeculationPlan:
    """Return the fastest way to decode: a place and a tree, or no speculation.

    Every place with room, depth, beam and number of rows that the curves know is compared; for
    each of them the tree is the best there is (`draft_tree.py`).

    Args:
        target: Seconds of one forward of the target by rows, at the present context.
        places: Where the draft may run; none: plain decoding.
        acceptance: By depth and rank; as deep and wide as the draft may go.
        load: Who else is in the step; nothing: one request alone.
        overlap: What runs side by side where the draft's device is apart; nothing: nothing does.
        min_speed_up: Speculation must gain more than this; above 1 it must beat the noise of the
            measurements too.
        most_rows: Rows of each request at most, the root among them; nothing: what the curve knows.

    Raises:
        ValueError: If acceptances are no chances, `min_speed_up` is below 1, or the target's curve
            does not reach the rows that plain decoding fills.
    """
    if not min_speed_up >= 1:
        raise ValueError(f"min_speed_up is {min_speed_up}; give at least 1")
    load, overlap = load or Load(), overlap or Overlap()
    table = checked_acceptance(acceptance)
    without = without_speculation(target, load)
    known_rows = (target.most_rows - load.other_rows) // load.num_requests
    most_rows = known_rows if most_rows is None else min(most_rows, known_rows)
    with_room = [place for place in places if place.fits]
    speculations = [
        candidate
        for place in with_room
        for candidate in _best_by_rows(place, table, most_rows, target, load, overlap)
    ]
    candidates = (without, *speculations)
    chosen = max(candidates, key=lambda c: _rank(c, min_speed_up))
    others = [candidate for candidate in candidates if candidate is not chosen]
    return SpeculationPlan(
        chosen=chosen,
        runner_up=max(others, key=_order, default=None),
        without=without,
        candidates=candidates,
        reasons=(
            *(place_reason(place, is_chosen=place.device == chosen.device) for place in places),
            *room_reason(target, load, known_rows, chosen),
            *choice_reasons(chosen, speculations, target, load, min_speed_up),
        ),
    )


def _best_by_rows(
    place: DraftPlace,
    acceptance: Acceptance,
    most_rows: int,
    target: CostCurve,
    load: Load,
    overlap: Overlap,
) -> Iterable[Candidate]:
    """Return the best candidate of each number of rows, rising."""
    best: dict[int, Candidate] = {}
    for tree in _trees(acceptance, most_rows - 1):
        if load.num_requests * tree.top_k > place.step_seconds.most_rows:
            continue
        candidate = speculation(place, tree, target, load, overlap)
        known = best.get(tree.rows)
        if known is None or candidate.speed_up > known.speed_up:
            best[tree.rows] = candidate
    return [best[rows] for rows in sorted(best)]


def _trees(acceptance: Acceptance, most_nodes: int) -> Iterator[DraftTree]:
    """Yield the best trees under every bound on depth and rank: each may be the cheapest to draft."""
    for depth in range(1, len(acceptance) + 1):
        for width in range(1, max(map(len, acceptance[:depth])) + 1):
            bounded = tuple(ranks[:width] for ranks in acceptance[:depth])
            yield from best_trees(bounded, most_nodes=most_nodes)


def _rank(candidate: Candidate, min_speed_up: float) -> tuple[bool, float, int]:
    pays = candidate.device is None or candidate.speed_up > min_speed_up
    return pays, *_order(candidate)


def _order(candidate: Candidate) -> tuple[float, int]:
    # Of equals the smaller: fewer rows to hold and to roll back.
    return candidate.speed_up, -candidate.rows
