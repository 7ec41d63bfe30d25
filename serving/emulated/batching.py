"""Continuous batching by the rules of `planner.simulator`, one step at a time. No clock.

`planner/simulator/replica.py` follows the same rules over many steps at once, for requests it knows
in advance; here they come and leave as clients please. The names (S1) to (S6) are its package's.
"""

from collections import deque
from dataclasses import dataclass

from planner.speed.replica_speed import ReplicaSpeed
from planner.speed.step_times import StepBatch


@dataclass(slots=True, eq=False)
class EmulatedSequence:
    """A request in the replica: sizes alone, no text."""

    request_id: str
    prompt_tokens: int
    answer_tokens: int
    """Tokens to emit."""
    num_emitted: int = 0
    computed_tokens: int = 0
    """Tokens with keys and values; those of a running prefill included."""
    prefill_tokens: int = 0
    """What its present or last prefill computes, all of it reserved at admission."""

    @property
    def is_decoding(self) -> bool:
        """Whether its prefill is complete."""
        return self.computed_tokens >= self.prefill_tokens

    @property
    def kv_tokens(self) -> int:
        """KV memory it holds while it runs."""
        return max(self.computed_tokens, self.prefill_tokens)

    @property
    def is_finished(self) -> bool:
        """Whether all its tokens are out."""
        return self.num_emitted == self.answer_tokens


class BatchedReplica:
    """Queue, memory and present step of one replica."""

    def __init__(self, speed: ReplicaSpeed) -> None:
        """Start idle."""
        self._speed = speed
        self.waiting: deque[EmulatedSequence] = deque()
        self.running: list[EmulatedSequence] = []
        """In the order of admission."""
        self.num_evictions = 0
        self._emitting: list[EmulatedSequence] = []

    @property
    def kv_tokens(self) -> int:
        """KV memory in use; a prefill counts in full."""
        return sum(sequence.kv_tokens for sequence in self.running)

    @property
    def kv_capacity_tokens(self) -> int:
        """KV memory there is."""
        return self._speed.kv_capacity_tokens

    def add(self, sequence: EmulatedSequence) -> None:
        """Queue a sequence that fits the memory when it is alone."""
        self.waiting.append(sequence)

    def remove(self, request_id: str) -> None:
        """Drop a sequence and free its memory; an unknown id is ignored, it may have finished."""
        self.waiting = deque(each for each in self.waiting if each.request_id != request_id)
        self.running = [each for each in self.running if each.request_id != request_id]
        self._emitting = [each for each in self._emitting if each.request_id != request_id]

    def start_step(self) -> float:
        """Compose the next step by (S1) to (S6); return its seconds, 0 where there is no work."""
        has_evicted = self._evict()
        decoding = [each for each in self.running if each.is_decoding]
        context_tokens = sum(each.prompt_tokens + each.num_emitted for each in decoding)
        self._emitting = list(decoding)
        prompt_tokens, pairs = 0, 0.0
        if not has_evicted:
            budget = self._speed.max_batched_tokens - len(decoding)
            prompt_tokens, pairs = self._compute_prompts(budget, len(decoding))
        for sequence in decoding:
            sequence.computed_tokens += 1
        if not (decoding or prompt_tokens):
            return 0.0
        batch = StepBatch(prompt_tokens, pairs, len(decoding), context_tokens)
        return self._speed.step_times.step_seconds(batch)

    def end_step(self) -> list[EmulatedSequence]:
        """Emit the step's tokens; return who got one. The finished ones have left."""
        for sequence in self._emitting:
            sequence.num_emitted += 1
        emitted, self._emitting = self._emitting, []
        self.running = [each for each in self.running if not each.is_finished]
        return emitted

    def _evict(self) -> bool:
        """Follow (S2); whether somebody had to leave."""
        has_evicted = False
        while self.running and self._needed_tokens() > self.kv_capacity_tokens:
            youngest = self.running.pop()
            youngest.computed_tokens = youngest.prefill_tokens = 0
            self.waiting.appendleft(youngest)
            self.num_evictions += 1
            has_evicted = True
        return has_evicted

    def _needed_tokens(self) -> int:
        """Return the memory in use and its growth in the next step."""
        return self.kv_tokens + sum(each.is_decoding for each in self.running)

    def _compute_prompts(self, budget: int, num_decoding: int) -> tuple[int, float]:
        """Follow (S3) to (S5); return the tokens of all chunks, and their query-key pairs."""
        most_tokens, pairs = budget, 0.0
        partial = next((each for each in self.running if not each.is_decoding), None)
        while budget > 0:
            sequence = partial or self._admit(num_decoding)
            if sequence is None:
                break
            past = sequence.computed_tokens
            chunk = min(sequence.prefill_tokens - past, budget)
            budget -= chunk
            pairs += chunk * (past + (chunk + 1) / 2)
            sequence.computed_tokens = past + chunk
            if sequence.is_decoding:
                self._emitting.append(sequence)
            partial = None
        return most_tokens - budget, pairs

    def _admit(self, num_decoding: int) -> EmulatedSequence | None:
        """Follow (S4): let the head of the queue run where there is room for its prefill."""
        if not self.waiting or len(self.running) == self._speed.max_sequences:
            return None
        head = self.waiting[0]
        needed = head.prompt_tokens + head.num_emitted
        if self.kv_tokens + num_decoding + needed > self.kv_capacity_tokens:
            return None
        self.waiting.popleft()
        head.prefill_tokens = needed
        self.running.append(head)
        return head
