"""Who takes part in the next step, and with how many rows."""

from collections import deque
from dataclasses import dataclass

from serving.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Scheduled:
    """A sequence's part in one step: target rows for `num_rows` known tokens, then drafts."""

    sequence: Sequence
    num_rows: int
    num_drafts: int

    @property
    def completes_prompt(self) -> bool:
        """Whether the step reaches the newest token, so that the next one can be chosen."""
        return self.num_rows == self.sequence.num_uncached


class Scheduler:
    """Admits by KV memory in order of arrival; decodes first, then prefill chunks."""

    def __init__(self, *, kv_tokens: int, max_sequences: int, max_prefill_rows: int) -> None:
        """Set the limits.

        Args:
            kv_tokens: Tokens the KV memory holds over all admitted sequences.
            max_sequences: Sequences that run at once.
            max_prefill_rows: Prompt rows of one step, so that a long prompt cannot stall others.
        """
        self._kv_tokens = kv_tokens
        self._max_sequences = max_sequences
        self._max_prefill_rows = max_prefill_rows
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def free_kv_tokens(self) -> int:
        """KV room not promised to a running sequence, in tokens."""
        return self._kv_tokens - sum(s.target_cache.capacity_tokens for s in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those that wait."""
        self.waiting.append(sequence)

    def remove(self, request_id: str) -> None:
        """Forget a sequence wherever it is; its memory is free at once."""
        running = [s for s in self.running if s.request.request_id != request_id]
        if len(running) == len(self.running):
            self.waiting = deque(s for s in self.waiting if s.request.request_id != request_id)
        self.running = running

    def schedule(self, num_drafts: int) -> list[Scheduled]:
        """Admit what fits and return the step's work.

        Args:
            num_drafts: Tokens to draft for each decoding sequence; fewer where its end is near.
        """
        self._admit()
        step = [
            Scheduled(sequence, 1, max(0, min(num_drafts, sequence.num_remaining - 1)))
            for sequence in self.running
            if sequence.num_uncached == 1
        ]
        budget = self._max_prefill_rows
        for sequence in self.running:
            if sequence.num_uncached > 1 and budget > 0:
                num_rows = min(sequence.num_uncached, budget)
                budget -= num_rows
                step.append(Scheduled(sequence, num_rows, 0))
        return step

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_sequences:
            if self.waiting[0].target_cache.capacity_tokens > self.free_kv_tokens:
                return
            self.running.append(self.waiting.popleft())
