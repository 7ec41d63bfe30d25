"""From drafts to groups with ranks and sequences, as the plan's document has them."""

from collections import defaultdict, deque
from collections.abc import Sequence

from planner.training.group_packing import Draft
from planner.training.room import Floor, Piece, Room
from planner.training.sequence_costs import TrainingFleet
from planner.training.training_plan import MicroBatch, SequenceGroup


def ranked_groups(
    lengths: Sequence[int], fleet: TrainingFleet, micro_batches: Sequence[Sequence[Draft]]
) -> tuple[MicroBatch, ...]:
    """Give every group ranks, the largest first, and every length its sequences in their order."""
    waiting: dict[int, deque[int]] = defaultdict(deque)
    for position, length in enumerate(lengths):
        waiting[length].append(position)
    floor = Floor(fleet.cluster)
    found = []
    for drafts in micro_batches:
        groups = []
        for draft, pieces in _seated(drafts, floor):
            ranks = tuple(sorted(rank for first, n in pieces for rank in range(first, first + n)))
            cost = fleet.group_cost(ranks)
            assert draft.tokens <= cost.capacity_tokens  # ranks cost no more than their kind
            sequences = tuple(sorted(waiting[length].popleft() for length in draft.lengths))
            seconds = cost.seconds(lengths[position] for position in sequences)
            groups.append(
                SequenceGroup(ranks=ranks, sequences=sequences, predicted_seconds=seconds)
            )
        found.append(MicroBatch(groups=tuple(groups)))
    return tuple(found)


def _seated(drafts: Sequence[Draft], floor: Floor) -> list[tuple[Draft, tuple[Piece, ...]]]:
    """Return the groups with their devices: side by side and aligned, where the kinds allow it."""
    ordered = sorted(drafts, key=lambda draft: -draft.kind.cost.degree)
    room = Room(floor)
    seats = [room.take(draft.kind) for draft in ordered]
    return [
        (draft, pieces if None not in seats and pieces is not None else draft.pieces)
        for draft, pieces in zip(ordered, seats, strict=True)
    ]
