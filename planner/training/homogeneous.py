"""Groups of one degree, as the published comparison packs them (FlexSP's released code).

Best-fit decreasing into groups of at most 0.9 of their capacity, which fill micro-batches in the
order of their creation; groups of the last micro-batch that stayed empty take single sequences.
"""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

from planner.training.sequence_costs import GroupCost, TrainingFleet
from planner.training.training_plan import HomogeneousPlan

_FILLED = 0.9
"""Share of a group's capacity that packing uses."""

_LEVELLED_DEGREE = 16
"""From this degree on, a last micro-batch that had empty groups is levelled."""


def best_homogeneous(
    lengths: Sequence[int], fleet: TrainingFleet, *, degrees: Sequence[int] | None = None
) -> HomogeneousPlan | None:
    """Return the fastest plan of groups of one degree, or None where none holds the sequences.

    Args:
        lengths: Tokens of each sequence of one global batch.
        fleet: Costs on the cluster.
        degrees: Those compared; by default all that the fleet offers.
    """
    plans = [
        plan
        for degree in (fleet.degrees if degrees is None else degrees)
        if (plan := homogeneous_plan(lengths, fleet, degree=degree)) is not None
    ]
    return min(plans, key=lambda plan: (plan.predicted_seconds, plan.degree), default=None)


def static_degree(fleet: TrainingFleet, *, longest_tokens: int) -> int | None:
    """Return the least degree whose groups hold the longest sequence, or None.

    Where no degree does at the share to which groups are packed, the least that does when full.
    """
    for filled in (_FILLED, 1.0):
        for degree in fleet.degrees:
            capacity = min(group.capacity_tokens for group in _groups_of(fleet, degree))
            if filled * capacity >= longest_tokens:
                return degree
    return None


def homogeneous_plan(
    lengths: Sequence[int], fleet: TrainingFleet, *, degree: int
) -> HomogeneousPlan | None:
    """Return the plan of groups of `degree` devices, or None where they do not hold the sequences.

    Groups are consecutive ranks. Where they differ, the fastest take what is most, and the
    smallest one's capacity counts for all.
    """
    costs = _groups_of(fleet, degree)
    capacity = min(cost.capacity_tokens for cost in costs)
    packed = _packed(lengths, room=max(_FILLED * capacity, max(lengths)))
    micro_batches = [packed[i : i + len(costs)] for i in range(0, len(packed), len(costs))]
    num_empty = len(costs) - len(micro_batches[-1])
    _fill_empty(micro_batches, num_empty, lengths)
    if num_empty and degree >= _LEVELLED_DEGREE:
        _level(micro_batches[-1], lengths, capacity)
    if any(group.tokens > capacity for batch in micro_batches for group in batch):
        return None
    seconds = sum(
        max(
            cost.seconds(lengths[i] for i in group.sequences)
            for cost, group in zip(costs, _longest_first(batch, lengths), strict=False)
        )
        for batch in micro_batches
    )
    return HomogeneousPlan(
        degree=degree, num_micro_batches=len(micro_batches), predicted_seconds=seconds
    )


@dataclass
class _Group:
    """Sequences, by their position in the batch, in the order in which they came."""

    sequences: list[int]
    tokens: int


def _groups_of(fleet: TrainingFleet, degree: int) -> list[GroupCost]:
    starts = range(0, fleet.num_devices - degree + 1, degree)
    costs = [fleet.group_cost(range(start, start + degree)) for start in starts]
    return sorted(costs, key=lambda cost: cost.seconds_per_token)


def _packed(lengths: Sequence[int], *, room: float) -> list[_Group]:
    """Put each sequence, longest first, where least room is left; the earliest group on ties."""
    groups: list[_Group] = []
    by_tokens: list[tuple[int, int]] = []  # tokens and the negated position of each group
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect.bisect_right(by_tokens, (room - lengths[i], 1)) - 1
        if place < 0:
            groups.append(_Group([i], lengths[i]))
            bisect.insort(by_tokens, (lengths[i], 1 - len(groups)))
            continue
        tokens, negated = by_tokens.pop(place)
        groups[-negated].sequences.append(i)
        groups[-negated].tokens = tokens + lengths[i]
        bisect.insort(by_tokens, (tokens + lengths[i], negated))
    return groups


def _longest_first(groups: list[_Group], lengths: Sequence[int]) -> list[_Group]:
    return sorted(groups, key=lambda group: -sum(lengths[i] ** 2 for i in group.sequences))


def _fill_empty(micro_batches: list[list[_Group]], num_empty: int, lengths: Sequence[int]) -> None:
    """Give each empty group of the last micro-batch a sequence of the latest group with several."""
    groups = [group for batch in micro_batches for group in batch]
    for _ in range(num_empty):
        donor = next((group for group in reversed(groups) if len(group.sequences) > 1), None)
        if donor is None:
            return
        moved = min(donor.sequences)
        donor.sequences.remove(moved)
        donor.tokens -= lengths[moved]
        micro_batches[-1].append(_Group([moved], lengths[moved]))


def _level(groups: list[_Group], lengths: Sequence[int], capacity: int) -> None:
    """Move sequences from fuller groups to later ones that are below the mean."""
    mean = sum(group.tokens for group in groups) // len(groups)
    for later, taker in enumerate(groups[1:], start=1):
        if taker.tokens > mean:
            continue
        for giver in groups[:later]:
            for i in sorted(giver.sequences):
                fits = taker.tokens + lengths[i] <= capacity
                is_wanted = taker.tokens < mean < giver.tokens and len(giver.sequences) > 1
                if fits and is_wanted:
                    giver.sequences.remove(i)
                    giver.tokens -= lengths[i]
                    taker.sequences.append(i)
                    taker.tokens += lengths[i]
