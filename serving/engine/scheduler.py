"""Who takes part in the next step, and with how many rows."""

import logging
from collections import deque
from dataclasses import dataclass

from serving.engine.drafting_policy import DraftSize, StepLoad
from serving.engine.pages import PagePool
from serving.engine.sequence import Sequence

logger = logging.getLogger(__name__)

MOST_DEPTH = 1 << 20
"""Depth of drafts that nothing bounds."""


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence's part in one step: target rows for `num_rows` known tokens, then drafts."""

    sequence: Sequence
    num_rows: int
    num_drafts: int
    size_depth: int = MOST_DEPTH

    @property
    def most_depth(self) -> int:
        """Places behind the newest token that a draft may reach: its round emits one more."""
        return min(self.sequence.num_remaining - 1, self.size_depth)

    @property
    def completes_prompt(self) -> bool:
        """Whether the step reaches the newest token, so that the next one can be chosen."""
        return self.num_rows == self.sequence.num_uncached


class Scheduler:
    """Shares out rows and pages, first come first served.

    - Every running sequence that decodes has its row in every step, before any prompt: prompts
      take at most a budget of rows, in order of arrival, so a long one delays prompts behind it
      and no stream. Since the oldest prompt always has the whole budget, none starves.
    - A waiting sequence is admitted when there are pages for its uncached tokens and the rows of
      one step behind them, not for the worst case; none overtakes an older one.
    - Where pages lack, drafts are cut first. Then the newest running sequence is preempted: its
      pages are free, it waits in front of all others, and its tokens are computed anew when it is
      admitted again. So the oldest always goes on, and alone it fits, which `add`'s caller checks.
    """

    def __init__(self, pages: PagePool, *, max_sequences: int, max_prefill_rows: int) -> None:
        """Set the limits.

        Args:
            pages: The target's pages.
            max_sequences: Sequences that run at once.
            max_prefill_rows: Prompt rows of one step, so that a long prompt cannot stall others.
        """
        self._pages = pages
        self._max_sequences = max_sequences
        self._max_prefill_rows = max_prefill_rows
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those that wait."""
        self.waiting.append(sequence)

    def remove(self, request_id: str) -> None:
        """Forget a sequence wherever it is; its memory is free at once."""
        for sequence in [*self.running, *self.waiting]:
            if sequence.request.request_id == request_id:
                (self.running if sequence in self.running else self.waiting).remove(sequence)
                sequence.release()

    @property
    def adapter_names(self) -> tuple[list[str], list[str]]:
        """Adapters that running and that waiting requests name, each once, sorted."""
        running, waiting = (
            {sequence.request.adapter_name for sequence in group}
            for group in (self.running, self.waiting)
        )
        return sorted(filter(None, running)), sorted(filter(None, waiting))

    @property
    def load(self) -> StepLoad:
        """Who would be in a step now, not counting those that wait."""
        uncached = [sequence.num_uncached for sequence in self.running]
        prompt_rows = sum(count for count in uncached if count > 1)
        return StepLoad(
            sum(count == 1 for count in uncached), min(prompt_rows, self._max_prefill_rows)
        )

    def schedule(self, size: DraftSize) -> list[Scheduled]:
        """Reserve pages, admit what fits, and return the step's work, decodes first.

        Args:
            size: What to draft for each decoding sequence; fewer tokens where pages lack.
        """
        num_preempted = self.num_preemptions
        step = self._schedule_decodes(size)
        # Whoever was preempted just now would be preempted again.
        if self.num_preemptions == num_preempted:
            step += self._admit(size)
        return step + self._schedule_prompts()

    def _schedule_decodes(self, size: DraftSize) -> list[Scheduled]:
        step = []
        for sequence in list(self.running):
            if sequence.num_uncached > 1 or sequence not in self.running:
                continue
            if self._make_room(sequence):
                step.append(self._decode(sequence, size))
        return step

    @staticmethod
    def _decode(sequence: Sequence, size: DraftSize) -> Scheduled:
        """Give a sequence that has room for its row as many drafts as there is room for."""
        cache = sequence.target_cache
        wanted = size.num_drafts if sequence.num_remaining > 1 else 0
        if not cache.reserve(1 + wanted):
            wanted = min(wanted, cache.num_reserved_rows - 1)
        return Scheduled(sequence, 1, wanted, size.depth)

    def _make_room(self, sequence: Sequence) -> bool:
        """Reserve one row, preempting from the newest on; False where that is `sequence` itself."""
        while not sequence.target_cache.reserve(1):
            newest = self.running[-1]
            self._preempt(newest)
            if newest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1
        logger.info(
            "preempted request_id=%s cached_tokens=%d running=%d waiting=%d",
            sequence.request.request_id,
            sequence.target_cache.length,
            len(self.running),
            len(self.waiting),
        )
        sequence.release()

    def _admit(self, size: DraftSize) -> list[Scheduled]:
        """Admit from the front of the queue; return who need not compute a prompt first."""
        step = []
        while self.waiting and len(self.running) < self._max_sequences:
            sequence = self.waiting[0]
            cache, tokens = sequence.target_cache, sequence.tokens
            num_rows = min(1 + size.num_drafts, sequence.num_remaining)
            # What alone would fit is admitted to an empty engine, with fewer drafts.
            num_rows = min(num_rows, self._pages.num_tokens - len(tokens))
            if cache.num_pages_to_admit(tokens, num_rows) > self._pages.num_available:
                break
            cache.share_prefix(tokens)
            has_room = cache.reserve(sequence.num_uncached + num_rows)
            assert has_room, "the room was counted"
            self.running.append(self.waiting.popleft())
            if sequence.num_uncached == 1:
                step.append(self._decode(sequence, size))
        return step

    def _schedule_prompts(self) -> list[Scheduled]:
        """Share the budget of prompt rows; their pages were reserved when they were admitted."""
        step = []
        budget = self._max_prefill_rows
        for sequence in self.running:
            if sequence.num_uncached > 1 and budget > 0:
                num_rows = min(sequence.num_uncached, budget)
                budget -= num_rows
                step.append(Scheduled(sequence, num_rows, 0))
        return step
