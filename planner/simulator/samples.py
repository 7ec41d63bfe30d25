"""Latency of a simulated fleet as samples: replications, or batches of one long trace.

A statistic's value is that of all samples' latencies together, which is less biased than a mean of
the samples' percentiles; the spread over the samples gives the interval.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from planner.errors import WorkloadError
from planner.simulator.gaps import TokenGaps
from planner.simulator.intervals import Estimate, half_width
from planner.simulator.request_times import RequestTimes
from planner.workloads.slo import Statistic

Quantity = Literal["ttft", "tpot", "token gap"]
"""Time to first token and time per output token, a value a request; time between two tokens."""

STATISTICS: tuple[Statistic, ...] = get_args(Statistic)


@dataclass(frozen=True, slots=True)
class LatencySample:
    """Latencies of one replication or batch; every pool has its entry, if an empty one."""

    ttft: Mapping[str, RequestTimes]
    tpot: Mapping[str, RequestTimes]
    """Requests of one token have none."""
    gaps: Mapping[str, TokenGaps] | None
    """Nothing where tokens were not counted."""


@dataclass(frozen=True, slots=True)
class LatencySamples:
    """Independent samples of one fleet's latency, and what can be asked of them.

    Every method takes the names of pools to look at; nothing: all of them.
    """

    pools: tuple[str, ...]
    samples: tuple[LatencySample, ...]
    duration_seconds: float = 0.0
    """How long the requests of a simulation arrive."""
    waiting: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By pool: requests without their first token when the last of each twentieth of the requests
    arrived, all replications together."""

    def estimates(
        self, quantity: Quantity, pools: Collection[str] | None = None
    ) -> dict[Statistic, Estimate]:
        """Return every statistic with its interval.

        Raises:
            WorkloadError: If no request has the quantity.
            ValueError: If tokens were not counted, or there is no such pool.
        """
        parts = [self._merged((sample,), quantity, pools) for sample in self.samples]
        whole = self._merged(self.samples, quantity, pools)
        if not len(whole):
            raise WorkloadError(f"no request has a {quantity} to judge; give a longer trace")
        return {
            name: Estimate(
                whole.statistic(name), half_width([part.statistic(name) for part in parts if part])
            )
            for name in STATISTICS
        }

    def num_values(self, quantity: Quantity, pools: Collection[str] | None = None) -> int:
        """Return how many values there are: requests, or tokens for the gaps."""
        return len(self._merged(self.samples, quantity, pools))

    def num_late(
        self, quantity: Quantity, limit_seconds: float, pools: Collection[str] | None = None
    ) -> int:
        """Return how many values exceed a limit."""
        return self._merged(self.samples, quantity, pools).num_above(limit_seconds)

    def num_waiting(self, pools: Collection[str] | None = None) -> tuple[int, ...]:
        """Return how many requests waited for their first token at the end of each twentieth."""
        names = self.pools if pools is None else pools
        kept = [self.waiting[name] for name in names if name in self.waiting]
        return tuple(map(sum, zip(*kept, strict=True)))

    def _merged(
        self,
        samples: Collection[LatencySample],
        quantity: Quantity,
        pools: Collection[str] | None,
    ) -> RequestTimes | TokenGaps:
        names = self.pools if pools is None else pools
        unknown = sorted(set(names) - set(self.pools))
        if unknown:
            raise ValueError(f"no pool {', '.join(unknown)}; there are {', '.join(self.pools)}")
        if quantity == "token gap":
            return TokenGaps.merged(_gaps(sample)[name] for sample in samples for name in names)
        by_pool = [sample.ttft if quantity == "ttft" else sample.tpot for sample in samples]
        return RequestTimes.merged(times[name] for times in by_pool for name in names)


def _gaps(sample: LatencySample) -> Mapping[str, TokenGaps]:
    if sample.gaps is None:
        raise ValueError("the time between tokens was not kept; simulate with count_tokens=True")
    return sample.gaps
