"""Moves and swaps of single sequences that shorten the slowest group of a micro-batch.

A group's time is linear in its tokens and its squared tokens, so every exchange with every other
sequence of the batch is judged at once. One is made where the slowest group of its micro-batch gets
faster and the sum over micro-batches does not grow; the best first, until there is none.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from planner.training.group_packing import Draft
from planner.training.group_search import Packed

LEAST_GAIN = 1e-9
"""Of the slowest group's time, as a share; less is rounding."""

MOST_PAIRS = 500_000
"""Pairs of sequences that are judged for one plan."""

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def exchanged(packed: Packed) -> Packed:
    """Return a plan after every exchange that helps, of the same groups."""
    exchange = Exchange(packed.micro_batches)
    exchange.improve(most_pairs=MOST_PAIRS)
    return min(packed, Packed.of(exchange.micro_batches()), key=lambda found: found.seconds)


class Exchange:
    """Every sequence and group of a batch in arrays; `improve` changes them."""

    def __init__(self, micro_batches: Sequence[Sequence[Draft]]) -> None:
        """Copy the groups, which stay as they are."""
        self._drafts = [draft for drafts in micro_batches for draft in drafts]
        self._sizes = [len(drafts) for drafts in micro_batches]
        self._micro_batch = np.repeat(np.arange(len(micro_batches)), self._sizes)
        costs = [draft.kind.cost for draft in self._drafts]
        self._square = np.array([cost.seconds_per_token_squared for cost in costs])
        self._linear = np.array([cost.seconds_per_token for cost in costs])
        self._seconds = np.array([draft.seconds() for draft in self._drafts])
        self._room = np.array(
            [draft.kind.cost.capacity_tokens - draft.tokens for draft in self._drafts]
        )
        # One empty sequence a group, so that a move is an exchange with it.
        self._length = np.array(
            [length for draft in self._drafts for length in [*draft.lengths, 0]], dtype=np.int64
        )
        counts = [len(draft.lengths) + 1 for draft in self._drafts]
        self._group = np.repeat(np.arange(len(self._drafts)), counts)

    def improve(self, *, most_pairs: int) -> None:
        """Exchange until nothing helps or so many pairs of sequences were judged."""
        waiting = list(range(len(self._sizes)))
        while waiting and most_pairs > 0:
            micro_batch = waiting[0]
            members = np.flatnonzero(self._micro_batch == micro_batch)
            slowest = int(members[np.argmax(self._seconds[members])])
            found, num_pairs = self._best_exchange(slowest)
            most_pairs -= num_pairs
            if found is None:
                waiting.pop(0)
                continue
            other = int(self._micro_batch[self._group[found[1]]])
            self._exchange(*found)
            waiting += [number for number in (other,) if number not in waiting]

    def micro_batches(self) -> tuple[tuple[Draft, ...], ...]:
        """Return the groups as they are now; one without sequences is left out."""
        drafts = []
        for number, draft in enumerate(self._drafts):
            lengths = [int(s) for s in self._length[self._group == number] if s]
            squares = sum(length * length for length in lengths)
            drafts.append(Draft(draft.kind, draft.pieces, lengths, sum(lengths), squares))
        ends = np.cumsum(self._sizes)
        parts = (drafts[end - size : end] for end, size in zip(ends, self._sizes, strict=True))
        filled = (tuple(draft for draft in part if draft.lengths) for part in parts)
        return tuple(part for part in filled if part)

    def _best_exchange(self, slowest: int) -> tuple[tuple[int, int] | None, int]:
        """Return which sequence of the slowest group and which other, and how many were judged."""
        own = np.flatnonzero((self._group == slowest) & (self._length > 0))
        if not len(own):  # emptied, and nothing of its micro-batch takes longer
            return None, 1
        own = own[np.unique(self._length[own], return_index=True)[1]]
        others = np.flatnonzero((self._group != slowest) & (self._length < self._length[own].max()))
        if not len(others):
            return None, 1
        after = self._seconds_after(slowest, own, others)
        best = int(np.argmin(after))
        found = (int(own[best // len(others)]), int(others[best % len(others)]))
        is_gain = after.flat[best] < self._seconds[slowest] * (1 - LEAST_GAIN)
        return (found if is_gain else None), after.size

    def _seconds_after(self, slowest: int, own: Whole, others: Whole) -> Floats:
        """Return what the slowest group's micro-batch takes after each exchange, and what others lose.

        Shape: (own, others). Infinite where a group cannot hold it or the slowest gets no faster.
        """
        given, taken = self._length[own][:, None], self._length[others][None, :]
        group = self._group[others]
        less, both = given - taken, given + taken
        change = self._square[slowest] * both + self._linear[slowest]
        here = self._seconds[slowest] - less * change
        there = self._seconds[group] + less * (self._square[group] * both + self._linear[group])
        is_same = self._micro_batch[group] == self._micro_batch[slowest]
        latest = self._latest()
        lost = np.where(is_same, 0.0, np.maximum(0.0, there - latest[self._micro_batch[group]]))
        second = self._second(slowest)
        after = np.where(is_same, np.maximum(here, there), here)
        after = np.where(lost > 0, np.maximum(after, second) + lost, after)
        fits = (less > 0) & (self._room[group] >= less)
        return np.where(fits, after, np.inf)

    def _latest(self) -> Floats:
        latest = np.zeros(len(self._sizes))
        np.maximum.at(latest, self._micro_batch, self._seconds)
        return latest

    def _second(self, slowest: int) -> float:
        """Return the time of the slowest other group of the micro-batch."""
        is_other = self._micro_batch == self._micro_batch[slowest]
        is_other[slowest] = False
        return float(self._seconds[is_other].max(initial=0.0))

    def _exchange(self, first: int, second: int) -> None:
        for mine, theirs in ((first, second), (second, first)):
            group, length, new = self._group[mine], self._length[mine], self._length[theirs]
            change = self._square[group] * (new + length) + self._linear[group]
            self._seconds[group] += (new - length) * change
            self._room[group] -= new - length
        self._length[first], self._length[second] = self._length[second], self._length[first]
