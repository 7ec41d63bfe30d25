"""A draft device of set latency that uses no processor, and whose acceptance is set, not earned.

It sleeps where a device would compute, and names tokens of a text known from a run without drafts,
wrong at places drawn once: a depth costs the same for one text as for many, as on a GPU.
"""

import random
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items

from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.growing import never
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

MOST_PLACES = 1 << 14


class SetLatencyDrafter:
    """Chains whose every depth takes a set time and is right with a set chance."""

    context_tokens = None
    num_without_room = 0
    reads_features = False

    def __init__(
        self,
        texts: Mapping[str, Items[int]],
        *,
        step_seconds: float,
        acceptance: float,
        second_acceptance: float,
        seed: int,
    ) -> None:
        """Draft from known texts.

        Args:
            texts: Prompt and the target's greedy text behind it, by request.
            step_seconds: One depth for any number of texts.
            acceptance: How often the token at a place is the text's, where all before it are.
            second_acceptance: Where it is not, how often the second likeliest is.
            seed: Of the places.
        """
        self._texts, self._step_seconds = texts, step_seconds
        places = random.Random(seed)
        self._is_right = [places.random() < acceptance for _ in range(MOST_PLACES)]
        self._is_second = [places.random() < second_acceptance for _ in range(MOST_PLACES)]
        self.is_stopped: Callable[[], bool] = never
        self.names_others = False
        self.seconds = 0.0
        """Slept so far, in whichever thread."""

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence."""
        wanted = [min(part.num_drafts, part.most_depth) for part in step]
        pairs: list[list[tuple[int, int]]] = [[] for _ in step]
        for level in range(max(wanted, default=0)):
            if self.is_stopped():
                break
            start = time.perf_counter()
            time.sleep(self._step_seconds)
            self.seconds += time.perf_counter() - start
            for part, found, count in zip(step, pairs, wanted, strict=True):
                if count > level:
                    found.append(self._next(part.sequence, [token for token, _ in found]))
        return [
            DraftTree.chain([first for first, _ in found], [other for _, other in found])
            for found in pairs
        ]

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Do nothing: the text is known."""

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

    def _next(self, sequence: Sequence, chain: list[int]) -> tuple[int, int]:
        """Return the likeliest and the second likeliest token behind a text and its chain."""
        known = self._texts[sequence.request.request_id]
        text = [*sequence.tokens, *chain]
        place = len(text)
        if place >= len(known) or list(known[:place]) != text:
            return 0, 1
        right = known[place]
        # Neighbours of a token exist in every vocabulary and differ from it.
        if self._is_right[place]:
            return right, right ^ 1
        return right ^ 1, right if self._is_second[place] else right ^ 2
