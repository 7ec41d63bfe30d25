"""One latency of many requests, exact."""

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import Self

from planner.workloads.quantiles import quantile
from planner.workloads.slo import Statistic


class RequestTimes:
    """Seconds, one value a request, kept in rising order and eight bytes each."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self._rising = array("d", sorted(seconds))

    @classmethod
    def merged(cls, parts: Iterable[Self]) -> Self:
        """Return the values of all parts together."""
        return cls(chain.from_iterable(part._rising for part in parts))

    def __len__(self) -> int:
        return len(self._rising)

    def statistic(self, name: Statistic) -> float:
        """Return the mean or a percentile, which interpolates between neighbours.

        Raises:
            ValueError: If there is no value.
        """
        if not self._rising:
            raise ValueError(f"no {name} of no requests; give a longer trace")
        if name == "mean":
            return math.fsum(self._rising) / len(self._rising)
        return quantile(self._rising, int(name[1:]) / 100)

    def num_above(self, limit_seconds: float) -> int:
        """Return how many values are greater than a limit."""
        return len(self._rising) - bisect_right(self._rising, limit_seconds)
