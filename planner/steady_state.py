"""One replica under a steady stream of equal requests: what its average step holds and takes.

Continuous batching with chunked prompts. The one free number is how many requests start, and end,
with each step. Of a request, one token comes from its prompt and `output - 1` from decoding; so
(Little's law) `requests * (output - 1)` sequences decode in each step, but never fewer than one
where a request is looked at. Prompts come in chunks of a whole step's tokens or less; while fewer
than one chunk comes with each step, only that fraction of the steps holds one. Requests of a single
token leave nothing to decode: then steps without a chunk are idle time of the same length.

    TPOT = mean step
    TTFT = half a mean step, where one is running
           + steps of the prompt's own chunks
           + waiting behind other prompts: rho / (2 (1 - rho)) prompts, the mean of an M/D/1 queue,
             rho being the prompts' share of the room that decoding leaves in a step

A mean-field model: lengths and gaps between steps do not vary, only arrivals do. Every term grows
with the requests a step.
"""

import math
from dataclasses import dataclass

from planner.replica_speed import ReplicaSpeed
from planner.step_times import StepBatch

FULLEST_FRACTION = 0.99
"""Highest rho: at 1 the queue of prompts has no end."""


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Averages at one load."""

    requests_per_second: float
    ttft_seconds: float
    tpot_seconds: float
    """0 where a request has one token only."""
    running_sequences: float
    """Mean number of sequences in the cache, prompts being computed included."""


class SteadyStream:
    """Requests of one size on one replica."""

    def __init__(self, speed: ReplicaSpeed, *, input_tokens: int, output_tokens: int) -> None:
        """Prepare the sums that no load changes.

        Raises:
            ValueError: If a length is below 1.
        """
        if input_tokens < 1 or output_tokens < 1:
            raise ValueError(
                f"a request of {input_tokens} input and {output_tokens} output tokens; "
                "give at least 1 of each"
            )
        self._speed = speed
        self._input, self._decoded = input_tokens, output_tokens - 1
        self._chunk = min(input_tokens, speed.max_batched_tokens)
        self._chunks = input_tokens / self._chunk
        # Query-key pairs of a prompt, spread evenly over its tokens.
        self._pairs_per_token = (input_tokens + 1) / 2
        self._mean_context = input_tokens + output_tokens / 2

    def most_requests_per_step(self) -> tuple[float, str]:
        """Return the most requests a step that room allows, and which room ends: a limit's name.

        `memory`, `sequences` or `tokens`: the cache, the sequences at once, the tokens of a step.
        """
        speed = self._speed
        sequences = self._decoded + self._chunks
        context = self._decoded * self._mean_context + self._chunks * self._input
        # Prompts may take FULLEST_FRACTION of the tokens that decoding leaves of each step.
        tokens = self._input / FULLEST_FRACTION + self._decoded
        rooms = (
            (speed.kv_capacity_tokens / context, "memory"),
            (speed.max_sequences / sequences, "sequences"),
            (speed.max_batched_tokens / tokens, "tokens"),
        )
        return min(rooms)

    def at(self, requests_per_step: float) -> SteadyState:
        """Return the averages when so many requests start with each step; 0: one request alone."""
        chunks = requests_per_step * self._chunks
        decoding = max(1.0, requests_per_step * self._decoded) if self._decoded else 0.0
        filled = self._step_seconds(self._chunk * max(1.0, chunks), decoding)
        mean = filled
        if decoding and chunks < 1:
            mean = (1 - chunks) * self._step_seconds(0.0, decoding) + chunks * filled
        running = requests_per_step * (self._decoded + self._chunks)
        room = self._speed.max_batched_tokens - decoding
        rho = requests_per_step * self._input / room
        waiting_steps = rho / (2 * (1 - rho)) * self._input / room
        return SteadyState(
            requests_per_second=requests_per_step / mean,
            ttft_seconds=min(1.0, running) * mean / 2
            + (math.ceil(self._chunks) + waiting_steps) * filled,
            tpot_seconds=mean if decoding else 0.0,
            running_sequences=running,
        )

    def _step_seconds(self, prompt_tokens: float, decoding: float) -> float:
        pairs = prompt_tokens * self._pairs_per_token
        batch = StepBatch(prompt_tokens, pairs, decoding, decoding * self._mean_context)
        return self._speed.step_times.step_seconds(batch)
