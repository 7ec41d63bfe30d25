"""What a draft head knows of one sequence between rounds, and the memory all sequences share.

Shape letters: N rows, E the target's hidden size.
"""

import logging
from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from serving.engine.head_cache import HeadCache
from serving.engine.head_rows import HeadRows

logger = logging.getLogger(__name__)

_STEP_ROWS = 64
"""Caches grow by half, in whole steps of this many rows."""


class CacheMaker(Protocol):
    """What makes caches for a head."""

    def new_cache(self, capacity_rows: int, *, first_position: int = 0) -> HeadCache:
        """Return an empty cache for one sequence."""


class HeadMemory:
    """Rows that the caches of all sequences may take together."""

    def __init__(self, most_rows: int) -> None:
        """Set the limit; nothing is taken yet."""
        self.most_rows = most_rows
        self.num_taken = 0
        self._has_warned = False

    def take(self, num_rows: int) -> bool:
        """Take rows; False, and nothing taken, where there are not as many."""
        if self.num_taken + num_rows > self.most_rows:
            return False
        self.num_taken += num_rows
        return True

    def give_back(self, num_rows: int) -> None:
        """Give rows back."""
        assert num_rows <= self.num_taken, "only taken rows are given back"
        self.num_taken -= num_rows

    def grow(self, cache: HeadCache, capacity_rows: int) -> bool:
        """Grow a cache; False, and nothing taken, where the limit or the device lacks memory.

        A device that others use too may be full below the limit, which is said once in the log.
        """
        added = capacity_rows - cache.capacity_rows
        if not self.take(added):
            return False
        try:
            cache.grow(capacity_rows)
        except torch.OutOfMemoryError as error:
            self.give_back(added)
            if not self._has_warned:
                logger.warning(
                    "draft head without memory on its device rows=%d of=%d reason=%s",
                    self.num_taken, self.most_rows, str(error).partition(".")[0],
                )  # fmt: skip
            self._has_warned = True
            return False
        return True


class HeadState:
    """A sequence's cache in the head, and the true features the head has not taken in yet.

    Features of a shared prefix are not known: the cache then begins behind it.
    """

    def __init__(self, cache: HeadCache, memory: HeadMemory) -> None:
        """Begin with an empty cache of no rows, which stands where its first row will."""
        self.cache = cache
        self._memory = memory
        self._features: list[Tensor] = []
        self.num_pending = 0
        """Features that wait; they stay on the target's device."""
        self.guessed: dict[int, Tensor] = {}
        """The head's own feature of the last of so many tokens, drafted ones included, kept for
        drafting ahead. Shape of each: (1, E)."""
        self.origin: HeadState | None = None
        """Of an imagined text: the state it begins as."""

    @property
    def stop(self) -> int:
        """Place of the first token whose feature is not known."""
        return self.cache.first_position + self.cache.length + self.num_pending

    def add(self, features_NE: Tensor) -> None:
        """Take in features of the next tokens."""
        self._features.append(features_NE)
        self.num_pending += len(features_NE)

    def reserve(self, num_tree_rows: int) -> bool:
        """Make room for what is pending and for a tree; False where memory lacks."""
        cache = self.cache
        needed = cache.length + self.num_pending + num_tree_rows
        if needed <= cache.capacity_rows:
            return True
        for wanted in (max(needed, cache.capacity_rows * 3 // 2), needed):
            if self._memory.grow(cache, _whole_steps(wanted)):
                return True
        return False

    def fork(self, head: CacheMaker, places: range, num_tree_rows: int) -> "HeadState | None":
        """Return the state of a text that goes on with guessed tokens; None where memory lacks.

        Its cache has the room, and gets this one's rows by `begin_as_origin`.

        Args:
            head: Makes the cache.
            places: Of the guessed tokens.
            num_tree_rows: Of a draft behind them.
        """
        if not (self.guessed.keys() >= set(places) and self.reserve(0)):
            return None
        num_rows = self.cache.length + self.num_pending + len(places) + num_tree_rows
        cache = head.new_cache(0, first_position=self.cache.first_position)
        if not self._memory.grow(cache, _whole_steps(num_rows)):
            return None
        fork = HeadState(cache, self._memory)
        fork.origin = self
        fork.guessed = dict(self.guessed)
        fork.add_guessed(places)
        return fork

    def forget_guessed(self, num_tokens: int) -> None:
        """Forget own features of tokens whose true ones are known."""
        for place in [place for place in self.guessed if place <= num_tokens]:
            del self.guessed[place]

    def add_guessed(self, places: range) -> None:
        """Take the head's own features for true, for the tokens at `places`."""
        for place in places:
            self.add(self.guessed[place])

    def begin_as_origin(self) -> None:
        """Copy the rows of the state this one begins as, whose features are all taken in."""
        origin = self.origin
        assert origin is not None, "a state begins once"
        assert origin.num_pending == 0, "what is pending is taken in first"
        self.cache.begin_as(origin.cache)
        self.origin = None

    def pending_rows(self, tokens: Items[int]) -> HeadRows:
        """Return what is pending as verified rows, which the caller now feeds.

        Args:
            tokens: The sequence's; row i takes feature i and token i + 1.
        """
        stop = self.stop
        known = tokens[stop - self.num_pending + 1 : stop + 1]
        features = self._features
        features_NE = features[0] if len(features) == 1 else torch.cat(features)
        self._features, self.num_pending = [], 0
        return HeadRows(known, features_NE, self.cache)

    def release(self) -> None:
        """Give the cache's memory back; nothing is known any more."""
        self._memory.give_back(self.cache.capacity_rows)
        self._features, self.num_pending = [], 0


def _whole_steps(num_rows: int) -> int:
    return -(-num_rows // _STEP_ROWS) * _STEP_ROWS
