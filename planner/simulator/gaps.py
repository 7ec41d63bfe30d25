"""Time between tokens, counted in bins: there are too many gaps to keep."""

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Self

from planner.simulator.runs import StepRun
from planner.workloads.slo import Statistic

BINS_PER_E = 200
"""Bins for each factor of e: a bin is 0.5 % wide."""


class TokenGaps:
    """How many gaps between two tokens of a request were how long.

    A bin keeps its number of gaps and their sum, and stands for gaps of its mean: the mean of all is
    exact, a percentile is to half a per cent, and exact where a bin's gaps are equal. Size depends on
    the spread of the gaps, not on their number.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self._seconds: defaultdict[int, float] = defaultdict(float)

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """Return the gaps of all parts together."""
        whole = cls()
        for part in parts:
            for index, count in part._counts.items():
                whole._count(index, count, part._seconds[index])
        return whole

    def add(self, seconds: float) -> None:
        """Count one gap, above 0."""
        self._count(_bin(seconds), 1, seconds)

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
            total = inside * seconds + growth * (inside * (inside - 1) / 2)
            self._count(index, inside * num_sequences, total * num_sequences)
            seconds += inside * growth
            steps -= inside

    def __len__(self) -> int:
        return sum(self._counts.values())

    def statistic(self, name: Statistic) -> float:
        """Return the mean, or the seconds that the percentile's share of gaps does not exceed.

        Raises:
            ValueError: If there is no gap.
        """
        num_gaps = len(self)
        if not num_gaps:
            raise ValueError(f"no {name} of no gaps; simulate answers of several tokens")
        if name == "mean":
            return math.fsum(self._seconds.values()) / num_gaps
        wanted, seen = int(name[1:]) / 100 * num_gaps, 0
        for index in sorted(self._counts):
            seen += self._counts[index]
            if seen >= wanted:
                break
        return self._seconds[index] / self._counts[index]

    def num_above(self, limit_seconds: float) -> int:
        """Return how many gaps are longer than a limit; the limit's own bin goes by its mean."""
        means = ((self._seconds[index] / count, count) for index, count in self._counts.items())
        return sum(count for mean, count in means if mean > limit_seconds)

    def _count(self, index: int, num_gaps: int, total_seconds: float) -> None:
        self._counts[index] += num_gaps
        self._seconds[index] += total_seconds


def _bin(seconds: float) -> int:
    return math.floor(math.log(seconds) * BINS_PER_E)
