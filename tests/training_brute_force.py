"""The fastest plan of a tiny batch: every partition of ranks and sequences into groups is tried.

It shares nothing with the planner but `TrainingFleet.group_cost`.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

from planner.training.sequence_costs import GroupCost, TrainingFleet


def fastest_seconds(lengths: Sequence[int], fleet: TrainingFleet) -> float:
    """Return the least time of the batch; infinite where no plan holds it."""
    layouts = {
        tuple(sorted(_fields(fleet.group_cost(b)) for b in blocks if len(b) in fleet.degrees))
        for blocks in _partitions(list(range(fleet.num_devices)))
    }
    everything = (1 << len(lengths)) - 1
    together = [math.inf] * (everything + 1)
    for layout in layouts:
        times = _layout_seconds(lengths, [GroupCost(*cost) for cost in layout])
        together = [min(pair) for pair in zip(together, times, strict=True)]
    best = [0.0] + [math.inf] * everything
    for subset in range(1, everything + 1):
        first = subset & -subset
        for part in _subsets(subset):
            if part & first:
                best[subset] = min(best[subset], together[part] + best[subset ^ part])
    return best[everything]


def _fields(cost: GroupCost) -> tuple[int, int, float, float, float]:
    """Return the fields in the order of the class."""
    return (
        cost.degree,
        cost.capacity_tokens,
        cost.seconds_per_token_squared,
        cost.seconds_per_token,
        cost.fixed_seconds,
    )


def _layout_seconds(lengths: Sequence[int], groups: Sequence[GroupCost]) -> list[float]:
    """Return by subset of the sequences when these groups end with it; an empty group takes no time."""
    size = 1 << len(lengths)
    latest = [0.0] + [math.inf] * (size - 1)
    for group in groups:
        alone = [0.0] * size
        for subset in range(1, size):
            members = [lengths[i] for i in range(len(lengths)) if subset >> i & 1]
            fits = sum(members) <= group.capacity_tokens
            alone[subset] = group.seconds(members) if fits else math.inf
        latest = [
            min(max(alone[part], latest[subset ^ part]) for part in _subsets(subset))
            for subset in range(size)
        ]
    return latest


def _subsets(subset: int) -> Iterator[int]:
    part = subset
    while True:
        yield part
        if not part:
            return
        part = (part - 1) & subset


def _partitions(ranks: list[int]) -> Iterator[list[list[int]]]:
    if not ranks:
        yield []
        return
    first, rest = ranks[0], ranks[1:]
    for size in range(len(rest) + 1):
        for mates in itertools.combinations(rest, size):
            left = [rank for rank in rest if rank not in mates]
            for blocks in _partitions(left):
                yield [[first, *mates], *blocks]
