"""Drafting with a Dovetail head, from the target's own features: what chains and trees share; chains.

Each round the head takes in the true features of what was accepted, then its own. Between devices go
the features of a round, in one copy, and token ids and the tree's shape back.

Source: Zhang et al., "Dovetail" (2025, arXiv 2412.18934), section 3.

Shape letters: N rows, E the target's hidden size.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.growing import GrowingChain, never
from serving.engine.head_cache import HeadCache
from serving.engine.head_rows import HeadOutput, HeadRows
from serving.engine.head_state import HeadMemory, HeadState
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_PENDING_ROWS = 512
"""Features of a sequence that wait for its next draft; more are taken in without one."""


class DraftHead(Protocol):
    """What drafting asks of a head; tests put tables of probabilities behind it."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence it was made for."""

    def new_cache(self, capacity_rows: int, *, first_position: int = 0) -> HeadCache:
        """Return an empty cache for one sequence."""

    def prefill(self, batch: Items[HeadRows]) -> HeadOutput:
        """Take in verified rows; say what stands behind each sequence's last one."""

    def step(self, batch: Items[HeadRows]) -> HeadOutput:
        """Take in tree rows; say what stands behind each of them."""


class HeadDrafter:
    """What chains and trees of a head share: its state for each sequence.

    A sequence whose cache finds no room is not drafted for in that round, which is counted, and
    begins anew from the features of the next.
    """

    reads_features = True

    def __init__(self, head: DraftHead, *, most_rows: int) -> None:
        """Draft with `head`, which must have been made for the target.

        Args:
            head: The head, on its own device.
            most_rows: Rows that the caches of all sequences may hold; a sequence takes one for each
                of its tokens and each row of its tree, and up to half as many to grow into.
        """
        self._head = head
        self.memory = HeadMemory(most_rows)
        self.num_without_room = 0
        """Drafts not made because the memory, or the device's, was full."""

    @property
    def context_tokens(self) -> int:
        """Longest sequence the head was made for."""
        return self._head.context_tokens

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Keep the true features until the head takes them in; what it guessed is forgotten then."""
        assert features_NE is not None, "this drafter reads them"
        state = _state(sequence)
        if state is None:
            first = sequence.target_cache.length - len(features_NE)
            state = HeadState(self._head.new_cache(0, first_position=first), self.memory)
            sequence.draft_state = state
        state.add(features_NE)
        state.forget_guessed(sequence.target_cache.length)
        assert state.stop == sequence.target_cache.length, "features come without a gap"

    def take_in(
        self, step: list[Scheduled], num_tree_rows: Items[int]
    ) -> tuple[list[int], HeadOutput | None]:
        """Feed the head all that is pending of those that draft, or of whom too much is.

        Args:
            step: Everyone's part.
            num_tree_rows: Rows each tree takes in the head's cache; below 0 for no draft.

        Returns:
            Who is ready to draft, and what the head says behind their newest tokens.
        """
        ready: list[int] = []
        late: list[HeadRows] = []
        batch: list[HeadRows] = []
        for index, (part, num_rows) in enumerate(zip(step, num_tree_rows, strict=True)):
            state = _state(part.sequence)
            if state is None or not (num_rows >= 0 or state.num_pending >= MOST_PENDING_ROWS):
                continue
            if not state.reserve(max(num_rows, 0)):
                self.num_without_room += num_rows >= 0
                state.release()
                part.sequence.draft_state = None
            elif num_rows >= 0:
                ready.append(index)
                batch.append(state.pending_rows(part.sequence.tokens))
            else:
                late.append(state.pending_rows(part.sequence.tokens))
        if late:
            self._head.prefill(late)
        return ready, self._head.prefill(batch) if batch else None


def _state(sequence: Sequence) -> HeadState | None:
    state = sequence.draft_state
    assert state is None or isinstance(state, HeadState), "an engine has one drafter"
    return state


def state_of(sequence: Sequence) -> HeadState:
    """Return what the head knows of a sequence that drafts."""
    state = _state(sequence)
    assert state is not None, "a sequence that drafts has a state"
    return state


def cache_of(part: Scheduled) -> HeadCache:
    """Return the head's cache of a sequence that drafts."""
    return state_of(part.sequence).cache


class HeadChainDrafter(HeadDrafter):
    """Proposes a chain for every sequence, one step of the head a depth for all of them.

    Ahead of a verification it drafts from its own features of the tokens that are guessed to be
    accepted; the true ones are taken in before the next time.
    """

    def __init__(self, head: DraftHead, *, most_rows: int) -> None:
        """As `HeadDrafter`."""
        super().__init__(head, most_rows=most_rows)
        self.is_stopped: Callable[[], bool] = never
        """Asked between two depths; a draft ends there where it is true."""
        self.names_others = False
        """Whether chains name the second likeliest tokens, and features are kept."""

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence."""
        chains = [GrowingChain(part.sequence) for part in step]
        depths = [min(part.num_drafts, part.most_depth) for part in step]
        active, output = self.take_in(step, [depth - 1 for depth in depths])
        level = 0
        while output is not None:
            growing = [chains[i] for i in active]
            logits = torch.split(output.logits_TV, 1)
            GrowingChain.extend(growing, logits, names_others=self.names_others)
            if self.names_others:
                features = torch.split(output.features_TE, 1)
                for chain, feature_1E in zip(growing, features, strict=True):
                    place = len(chain.sequence.tokens) + level
                    state_of(chain.sequence).guessed[place] = feature_1E
            level += 1
            if self.is_stopped():
                break
            rows = [row for row, i in enumerate(active) if depths[i] > level]
            batch = [
                HeadRows(
                    chains[active[row]].tokens[-1:],
                    output.features_TE[row : row + 1],
                    cache_of(step[active[row]]),
                    depths=(level,),
                )
                for row in rows
            ]
            active = [active[row] for row in rows]
            output = self._head.step(batch) if batch else None
        return [chain.tree for chain in chains]

    def imagine(self, sequence: Sequence, path: Items[int], num_drafts: int) -> Sequence | None:
        """Return the text as if `path` followed, with room to draft; None where memory lacks."""
        imagined = sequence.imagined(path)
        places = range(len(sequence.tokens), len(imagined.tokens))
        imagined.draft_state = state_of(sequence).fork(self._head, places, num_drafts)
        return imagined if imagined.draft_state is not None else None

    def prepare(self, imagined: Items[Sequence]) -> None:
        """Take in the true features of the texts that go on, and copy the head's rows of them."""
        taken: list[tuple[HeadState, int, HeadRows]] = []
        for each in imagined:
            origin = state_of(each).origin
            if origin is not None and origin.num_pending:
                taken.append((origin, origin.stop, origin.pending_rows(each.tokens)))
        if taken:
            try:
                self._head.prefill([rows for _, _, rows in taken])
            except Exception:
                for origin, stop, rows in taken:
                    if origin.stop < stop:  # not in the cache, so nowhere else any more
                        origin.add(rows.features_NE)
                raise
        for each in imagined:
            state_of(each).begin_as_origin()

    def go_on(self, imagined: Sequence, chain: Items[int]) -> None:
        """Take a chain drafted behind an imagined text for part of it, to draft behind that."""
        first = len(imagined.tokens)
        imagined.tokens += chain
        state_of(imagined).add_guessed(range(first, len(imagined.tokens)))

    def adopt(self, sequence: Sequence, imagined: Sequence) -> None:
        """Keep the features drafted with behind a text that came true."""
        drafted = _state(imagined)
        state_of(sequence).guessed = {} if drafted is None else drafted.guessed
