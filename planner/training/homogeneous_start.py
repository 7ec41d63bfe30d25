"""Plans of groups of one size, from which the search for unequal ones starts."""

from collections.abc import Sequence

import numpy as np

from planner.training.group_kinds import GroupKind
from planner.training.group_packing import Draft
from planner.training.room import Floor, Room


def homogeneous_start(
    lengths: Sequence[int], kinds: Sequence[GroupKind], floor: Floor
) -> tuple[tuple[Draft, ...], ...] | None:
    """Return a plan of kinds of one degree: longest first, to the group that then ends first.

    With the fewest micro-batches in which every sequence finds a group that holds it; None where
    the longest finds none.
    """
    layout = _layout(kinds, floor)
    if max(lengths) > max((draft.kind.cost.capacity_tokens for draft in layout), default=0):
        return None
    capacity = sum(draft.kind.cost.capacity_tokens for draft in layout)
    number = -(-sum(lengths) // capacity)
    while True:
        found = _spread(lengths, [[draft.copy() for draft in layout] for _ in range(number)])
        if found is not None:
            return found
        number += 1


def _layout(kinds: Sequence[GroupKind], floor: Floor) -> list[Draft]:
    """Fill an empty cluster with groups of the kinds, the cheapest first."""
    room, layout = Room(floor), []
    for kind in kinds:
        while (pieces := room.take(kind)) is not None:
            layout.append(Draft(kind, pieces, []))
    return layout


def _spread(
    lengths: Sequence[int], micro_batches: list[list[Draft]]
) -> tuple[tuple[Draft, ...], ...] | None:
    groups = [draft for drafts in micro_batches for draft in drafts]
    costs = [draft.kind.cost for draft in groups]
    square = np.array([cost.seconds_per_token_squared for cost in costs])
    linear = np.array([cost.seconds_per_token for cost in costs])
    left = np.array([cost.capacity_tokens for cost in costs])
    seconds = np.array([cost.fixed_seconds for cost in costs])
    for length in sorted(lengths, reverse=True):
        after = np.where(left >= length, seconds + length * (length * square + linear), np.inf)
        number = int(np.argmin(after))
        if np.isinf(after[number]):
            return None
        seconds[number] = after[number]
        left[number] -= length
        group = groups[number]
        group.lengths.append(length)
        group.tokens += length
        group.squares += length * length
    filled = (tuple(draft for draft in drafts if draft.lengths) for drafts in micro_batches)
    return tuple(drafts for drafts in filled if drafts)
