"""Chains ahead whose acceptance is set, not earned, and a draft device of set latency.

A worker does the work of drafting, whatever it says; the tokens are those of a text known from a run
without drafts, wrong at places drawn once. The sleeping worker stands for a device that computes
without the processor: a depth costs the same for one text as for many, as on a GPU.
"""

import random
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items

from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.growing import never
from serving.engine.pre_drafting import ChainAhead
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_PLACES = 1 << 14


class SleepingWorker:
    """Chains of nothing in particular, whose every depth takes a set time and no processor."""

    context_tokens = None
    num_without_room = 0
    reads_features = False

    def __init__(self, step_seconds: float) -> None:
        """Sleep so long for one depth of any number of texts."""
        self._step_seconds = step_seconds
        self.is_stopped: Callable[[], bool] = never
        self.names_others = False

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence."""
        wanted = [min(part.num_drafts, part.most_depth) for part in step]
        num_levels = 0
        while num_levels < max(wanted, default=0) and not self.is_stopped():
            time.sleep(self._step_seconds)
            num_levels += 1
        return [DraftTree.chain([0] * min(count, num_levels)) for count in wanted]

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Do nothing."""

    def imagine(self, sequence: Sequence, path: Items[int], num_drafts: int) -> Sequence | None:
        """Return the text as if `path` followed."""
        return sequence.imagined(path)

    def prepare(self, imagined: Items[Sequence]) -> None:
        """Do nothing."""

    def go_on(self, imagined: Sequence, chain: Items[int]) -> None:
        """Take the chain for part of the text."""
        imagined.tokens += chain

    def adopt(self, sequence: Sequence, imagined: Sequence) -> None:
        """Do nothing."""


class ReplayedAhead:
    """Lets a worker draft, then names tokens that are right with a set chance."""

    def __init__(
        self,
        worker: ChainAhead,
        texts: Mapping[str, Items[int]],
        *,
        acceptance: float,
        second_acceptance: float,
        seed: int,
    ) -> None:
        """Replay known texts.

        Args:
            worker: Whose work is done; chains are as long as its own.
            texts: Prompt and the target's greedy text behind it, by request.
            acceptance: How often the token at a place is the text's, where all before it are.
            second_acceptance: Where it is not, how often the second likeliest is.
            seed: Of the places.
        """
        self._worker, self._texts = worker, texts
        places = random.Random(seed)
        self._is_right = [places.random() < acceptance for _ in range(MOST_PLACES)]
        self._is_second = [places.random() < second_acceptance for _ in range(MOST_PLACES)]
        self.reads_features = worker.reads_features
        self.settle, self.prepare = worker.settle, worker.prepare
        self.imagine, self.go_on, self.adopt = worker.imagine, worker.go_on, worker.adopt

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence the worker takes."""
        return self._worker.context_tokens

    @property
    def num_without_room(self) -> int:
        """Drafts the worker did not make."""
        return self._worker.num_without_room

    @property
    def is_stopped(self) -> Callable[[], bool]:
        """What the worker asks between two depths."""
        return self._worker.is_stopped

    @is_stopped.setter
    def is_stopped(self, asked: Callable[[], bool]) -> None:
        self._worker.is_stopped = asked

    @property
    def names_others(self) -> bool:
        """Whether the worker names the second likeliest; they are replayed in any case."""
        return self._worker.names_others

    @names_others.setter
    def names_others(self, value: bool) -> None:
        self._worker.names_others = value

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence, as long as the worker's."""
        drafted = self._worker.propose(step)
        return [
            self._replayed(part.sequence, len(tree))
            for part, tree in zip(step, drafted, strict=True)
        ]

    def _replayed(self, sequence: Sequence, count: int) -> DraftTree:
        known = self._texts[sequence.request.request_id]
        text = list(sequence.tokens)
        found: list[tuple[int, int]] = []
        is_known = list(known[: len(text)]) == text
        for place in range(len(text), len(text) + count):
            if not is_known or place >= len(known):
                found.append((0, 1))
                continue
            right = known[place]
            is_known = self._is_right[place]
            # Neighbours of a token exist in every vocabulary and differ from it.
            other = right if self._is_second[place] else right ^ 2
            found.append((right, right ^ 1) if is_known else (right ^ 1, other))
        return DraftTree.chain([first for first, _ in found], [other for _, other in found])
