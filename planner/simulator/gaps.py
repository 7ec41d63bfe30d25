"""Time between tokens, counted in bins: there are too many gaps to keep."""

import math
from collections import Counter

from planner.simulator.runs import StepRun

BINS_PER_E = 200
"""Bins for each factor of e: a bin is 0.5 % wide."""


class TokenGaps:
    """How many gaps between two tokens of a request were how long, to half a per cent."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, seconds: float, num_gaps: int) -> None:
        """Count gaps of one length.

        Args:
            seconds: Above 0.
            num_gaps: How many.
        """
        self._counts[_bin(seconds)] += num_gaps

    def add_run(self, run: StepRun, num_sequences: int) -> None:
        """Count one gap a step and sequence of a run of decode steps."""
        seconds, growth, steps = run.first_seconds, run.growth_seconds, run.num_steps
        while steps:
            index = _bin(seconds)
            inside = steps
            if growth > 0:
                # Rounding may put a step on the wrong side of an edge, never lose one.
                to_edge = math.exp((index + 1) / BINS_PER_E) - seconds
                inside = max(1, min(steps, math.ceil(to_edge / growth)))
            self._counts[index] += inside * num_sequences
            seconds += inside * growth
            steps -= inside

    def __len__(self) -> int:
        return self._counts.total()

    def percentile(self, fraction: float) -> float:
        """Return the seconds that this fraction of gaps does not exceed, to half a per cent.

        Raises:
            ValueError: If there is no gap, or the fraction is outside 0 to 1.
        """
        if not self._counts or not 0 <= fraction <= 1:
            raise ValueError(f"no percentile {fraction} of {len(self)} gaps; ask 0 to 1 of some")
        wanted = fraction * len(self)
        seen = 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                break
        return math.exp((index + 0.5) / BINS_PER_E)


def _bin(seconds: float) -> int:
    return math.floor(math.log(seconds) * BINS_PER_E)
