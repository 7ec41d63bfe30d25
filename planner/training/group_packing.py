"""Packing sequences into groups of one micro-batch that must end in a given time.

The longest sequence left opens the kind of group that uses up least of the fleet among those that
hold it in time; the group is then filled, the longest that still fits first. Sequences of one
length are interchangeable, so only their count is kept.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.training.group_kinds import GroupKind
from planner.training.room import Piece, Room

LEAST_DIFFERENCE = 1e-7
"""Of what two kinds use, as a share and a device; less does not count."""


@dataclass(slots=True)
class Draft:
    """A group in the making: `lengths` and its two sums change."""

    kind: GroupKind
    pieces: tuple[Piece, ...]
    lengths: list[int]
    tokens: int = 0
    squares: int = 0

    def seconds(self) -> float:
        """Return its time."""
        cost = self.kind.cost
        linear = cost.seconds_per_token * self.tokens + cost.fixed_seconds
        return cost.seconds_per_token_squared * self.squares + linear

    def copy(self) -> "Draft":
        """Return one that changes by itself."""
        return Draft(self.kind, self.pieces, list(self.lengths), self.tokens, self.squares)


class Pool:
    """Sequences that are in no group yet, by length."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """Begin with all of them."""
        counts = sorted(Counter(lengths).items())
        self.lengths = [length for length, _ in counts]
        self.counts = [count for _, count in counts]
        # Where a length has run out, the place to look for the next shorter; shifted by one.
        self._shorter = list(range(len(counts) + 1))

    def copy(self) -> "Pool":
        """Return one that changes by itself."""
        other = Pool.__new__(Pool)
        other.lengths, other.counts = self.lengths, list(self.counts)
        other._shorter = list(self._shorter)
        return other

    def longest(self, place: int | None = None) -> int:
        """Return the place of the longest there is at `place` or before; -1 where there is none."""
        shorter = self._shorter
        start = node = len(self.lengths) if place is None else place + 1
        while shorter[node] != node:
            node = shorter[node]
        while shorter[start] != node:
            start, shorter[start] = shorter[start], node
        return node - 1

    def take(self, place: int, count: int) -> None:
        """Take sequences of one length away."""
        self.counts[place] -= count
        if not self.counts[place]:
            self._shorter[place + 1] = place

    def take_all(self, lengths: Iterable[int]) -> None:
        """Take sequences of these lengths away."""
        for length, count in Counter(lengths).items():
            self.take(bisect_left(self.lengths, length), count)


def pack(pool: Pool, kinds: Sequence[GroupKind], room: Room, target_seconds: float) -> list[Draft]:
    """Fill what room a micro-batch has from the pool, which keeps what found no place."""
    limits = [longest_in_time(kind, target_seconds) for kind in kinds]
    drafts: list[Draft] = []
    place = pool.longest()
    while place >= 0 and room.num_free:
        draft = _open(pool.lengths[place], kinds, limits, room)
        if draft is None:
            place = pool.longest(place - 1)
            continue
        fill(draft, pool, place, target_seconds)
        drafts.append(draft)
        place = pool.longest(place)
    return drafts


def fill(draft: Draft, pool: Pool, place: int, target_seconds: float) -> None:
    """Move sequences from the pool to a group, from `place` downward, as they fit."""
    cost = draft.kind.cost
    square, linear = cost.seconds_per_token_squared, cost.seconds_per_token
    lengths, counts = pool.lengths, pool.counts
    tokens = cost.capacity_tokens - draft.tokens
    seconds = target_seconds - draft.seconds()
    while place >= 0:
        length = lengths[place]
        each = (square * length + linear) * length
        count = min(counts[place], tokens // length)
        if count * each > seconds:
            count = int(seconds / each)
        if count > 0:
            pool.take(place, count)
            draft.lengths.extend([length] * count)
            draft.tokens += length * count
            draft.squares += length * length * count
            tokens -= length * count
            seconds -= each * count
        limit = min(tokens, longest_within(square, linear, seconds), length - 1)
        place = pool.longest(bisect_right(lengths, limit, 0, place) - 1) if limit > 0 else -1


def longest_in_time(kind: GroupKind, target_seconds: float) -> int:
    """Return the most tokens of one sequence that a kind of group holds and ends in time."""
    cost = kind.cost
    within = longest_within(
        cost.seconds_per_token_squared,
        cost.seconds_per_token,
        target_seconds - cost.fixed_seconds,
    )
    return min(cost.capacity_tokens, within)


def longest_within(square: float, linear: float, seconds: float) -> int:
    """Return the largest whole `s` with `square s^2 + linear s` within the time; at least 0."""
    if seconds <= 0:
        return 0
    if square * seconds < 1e-12 * linear * linear:
        return int(min(seconds / linear, 1e18)) if linear else 10**18
    root = math.sqrt(linear * linear + 4 * square * seconds)
    return int(2 * seconds / (linear + root))


def _open(
    length: int, kinds: Sequence[GroupKind], limits: Sequence[int], room: Room
) -> Draft | None:
    """Return an empty group of the kind that uses least for this sequence and has room."""
    costs = []
    for number, kind in enumerate(kinds):
        if limits[number] >= length:
            cost = kind.cost
            each = (cost.seconds_per_token_squared * length + cost.seconds_per_token) * length
            # Of kinds that use the same, such as beyond the measured degrees, the smallest.
            costs.append((kind.weight * each * (1 + LEAST_DIFFERENCE * cost.degree), number))
    for _, number in sorted(costs):
        pieces = room.take(kinds[number])
        if pieces is not None:
            return Draft(kinds[number], pieces, [])
    return None
