"""Runs of steps between which nothing changes but the length of the contexts."""

import math
from dataclasses import dataclass

from planner.speed.step_times import StepBatch, StepTimes

AFFINE_TOLERANCE = 1e-9
"""How far a decode step may lie off its line over contexts, as a share of its seconds."""

PROBE_TOKENS = 1 << 20
"""Sum of contexts at which the line of decode steps is taken, beside 0."""


@dataclass(slots=True)
class StepRun:
    """Steps back to back whose seconds grow evenly; a value, never changed."""

    start_seconds: float
    first_seconds: float
    """Length of the first step."""
    growth_seconds: float
    """By which every step is longer than the one before."""
    num_steps: int

    def end_after(self, num_steps: int) -> float:
        """Return when the first so many steps have ended."""
        growth = self.growth_seconds * (num_steps * (num_steps - 1) / 2)
        return self.start_seconds + (num_steps * self.first_seconds + growth)

    def cut_after(self, now: float) -> "StepRun":
        """Return the run up to the first step that ends after `now`, or the whole run."""
        # elapsed = half * steps^2 + (first - half) * steps, solved without cancellation
        half = self.growth_seconds / 2
        slope = self.first_seconds - half
        elapsed = now - self.start_seconds
        root = math.sqrt(max(0.0, slope * slope + 4 * half * elapsed))
        steps = min(self.num_steps, int(2 * elapsed / (slope + root)) + 1)
        while steps > 1 and self.end_after(steps - 1) > now:
            steps -= 1
        while steps < self.num_steps and self.end_after(steps) <= now:
            steps += 1
        return StepRun(self.start_seconds, self.first_seconds, self.growth_seconds, steps)


class DecodeLines:
    """Seconds of a pure decode step by the sum of contexts: one line for each number of sequences."""

    def __init__(self, step_times: StepTimes) -> None:
        self._step_times = step_times
        self._lines: dict[int, tuple[float, float]] = {}

    def run(
        self, start_seconds: float, *, sequences: int, context_tokens: int, num_steps: int
    ) -> StepRun:
        """Return a run of decode steps; `context_tokens` is the sum of contexts in the first.

        Raises:
            ValueError: If the step times are not above 0 and affine in the context.
        """
        line = self._lines.get(sequences)
        if line is None:
            line = self._lines[sequences] = self._line(sequences)
        at_zero, per_token = line
        first = at_zero + per_token * context_tokens
        return StepRun(start_seconds, first, per_token * sequences, num_steps)

    def _line(self, sequences: int) -> tuple[float, float]:
        at_zero, midway, far = (
            self._step_times.step_seconds(StepBatch(0, 0.0, sequences, context))
            for context in (0, PROBE_TOKENS // 2, PROBE_TOKENS)
        )
        per_token = (far - at_zero) / PROBE_TOKENS
        if not (at_zero > 0 and per_token >= 0 and math.isfinite(far)):
            raise ValueError(
                f"{sequences} decoding sequences take {at_zero} s without context and {far} s with "
                f"{PROBE_TOKENS} tokens; step times are above 0 and never fall"
            )
        if abs((at_zero + far) / 2 - midway) > AFFINE_TOLERANCE * far:
            raise ValueError(
                f"steps of {sequences} sequences are not affine in the context: {midway} s lies off "
                f"the line from {at_zero} to {far}; make them so"
            )
        return at_zero, per_token
