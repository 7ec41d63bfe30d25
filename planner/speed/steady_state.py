"""One replica under a steady stream of equal requests: what its average step holds and takes.

Continuous batching with chunked prompts. The one free number is how many requests start, and end,
with each step. Of a request, one token comes from its prompt and `output - 1` from decoding; so
(Little's law) `requests * (output - 1)` sequences decode in each step, but never fewer than one
where a request is looked at. Prompts come in chunks of a whole step's tokens or less; while fewer
than one chunk comes with each step, only that fraction of the steps is filled, the others are plain.
Requests of a single token leave nothing to decode: plain steps are then idle time as long as filled.

    TPOT = mean step
    TTFT = rest of the step that runs: E[step^2] / (2 E[step]), where one runs
           + own service: the chunks of the prompt, each in a filled step
           + waiting behind other prompts: rho / (1 - rho) * service / 2, as in an M/D/1 queue;
             rho is the time that all prompts take in full steps

A mean-field model: requests are equal and steps take their mean, only arrivals are random. Sequences
then run in Poisson numbers; room is kept for one standard deviation above the mean, beyond which
requests wait for memory, or evict one another. Percentiles and evictions are left to the simulation.
"""

import math
from dataclasses import dataclass

from planner.speed.replica_speed import ReplicaSpeed
from planner.speed.step_times import StepBatch


@dataclass(frozen=True, slots=True)
class SteadyState:
    """Averages at one load."""

    requests_per_second: float
    ttft_seconds: float
    """Infinite where prompts alone take all the time."""
    tpot_seconds: float
    """0 where a request has one token only."""
    prompt_load_fraction: float
    """Time that the prompts would take in full steps: rho."""
    running_sequences: float
    """Mean number of sequences in the cache, prompts being computed included."""
    cached_tokens: float
    """Mean context that they hold."""

    @property
    def high_sequences(self) -> float:
        """Sequences one standard deviation above the mean."""
        return self.running_sequences + math.sqrt(self.running_sequences)

    @property
    def high_cached_tokens(self) -> float:
        """Context one standard deviation above the mean."""
        if not self.running_sequences:
            return 0.0
        return self.cached_tokens * (1 + 1 / math.sqrt(self.running_sequences))


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

    @property
    def most_requests_per_step(self) -> float:
        """Requests that fill the steps, the cache or the sequences at once; no load reaches it."""
        speed, decoded = self._speed, max(1, self._decoded)
        return min(
            speed.max_batched_tokens / (self._input + self._decoded),
            speed.kv_capacity_tokens / (decoded * self._mean_context),
            speed.max_sequences / decoded,
        )

    def at(self, requests_per_step: float) -> SteadyState:
        """Return the averages when so many requests start with each step; 0: one request alone."""
        chunks = requests_per_step * self._chunks
        decoding = max(1.0, requests_per_step * self._decoded) if self._decoded else 0.0
        filled = self._step_seconds(self._chunk * max(1.0, chunks), decoding)
        plain, share = filled, min(1.0, chunks)
        if decoding and chunks < 1:
            plain = self._step_seconds(0.0, decoding)
        mean = (1 - share) * plain + share * filled
        mean_square = (1 - share) * plain**2 + share * filled**2
        rate = requests_per_step / mean
        service = math.ceil(self._chunks) * filled
        running = requests_per_step * self._decoded + rate * service
        load = rate * self._full_seconds(decoding)
        waiting = load / (1 - load) * service / 2 if load < 1 else math.inf
        return SteadyState(
            requests_per_second=rate,
            ttft_seconds=min(1.0, running) * mean_square / (2 * mean) + service + waiting,
            tpot_seconds=mean if decoding else 0.0,
            prompt_load_fraction=load,
            running_sequences=running,
            cached_tokens=requests_per_step * self._decoded * self._mean_context
            + rate * service * self._input,
        )

    def _full_seconds(self, decoding: float) -> float:
        """Return a prompt's part of a step in which prompts take all that decoding leaves."""
        room = max(1.0, self._speed.max_batched_tokens - decoding)
        return self._input / room * self._step_seconds(room, decoding)

    def _step_seconds(self, prompt_tokens: float, decoding: float) -> float:
        pairs = prompt_tokens * self._pairs_per_token
        batch = StepBatch(prompt_tokens, pairs, decoding, decoding * self._mean_context)
        return self._speed.step_times.step_seconds(batch)
