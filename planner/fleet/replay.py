"""What a replay replays: a recorded trace in batches, or requests drawn anew for each replication."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from random import Random
from typing import Protocol

from planner.fleet.verification import FEWEST_RECORDED
from planner.simulator import ServingFleet, batches_of, replicate, simulate
from planner.simulator.result import batch_edges
from planner.simulator.samples import LatencySamples
from planner.workloads.trace import Trace
from planner.workloads.workload import RequestSize, Workload

SETTLED_SECONDS = 600.0
"""How long a drawn replication lasts unless that takes too many or too few requests."""

MOST_REQUESTS = 50_000
"""Requests that a replay takes in at the most, unless they last less than `LONG_SECONDS`."""

LONG_SECONDS = 180.0
"""How long even the traffic of a large fleet is replayed."""

FEWEST_REQUESTS = 2000
"""Requests that a drawn replication holds at least."""

WARM_UP_BATCHES = 1
"""Twentieths left out, in which the fleet fills up."""


class Replay(Protocol):
    """Requests of one model, to be served by any fleet."""

    @property
    def words(self) -> str:
        """What is replayed."""
        ...

    @property
    def num_requests(self) -> int:
        """Requests of one replication."""
        ...

    @property
    def num_samples(self) -> int:
        """Replications or batches that are judged."""
        ...

    @property
    def duration_seconds(self) -> float:
        """From the first arrival of one replication to the last."""
        ...

    def samples(
        self,
        fleet: ServingFleet,
        *,
        count_tokens: bool,
        on_progress: Callable[[float], None] | None = None,
    ) -> LatencySamples:
        """Return the latencies of at least ten replications or batches."""
        ...


@dataclass(frozen=True, slots=True)
class RecordedReplay:
    """A recorded trace, served once; its stretches are the samples."""

    trace: Trace
    words: str
    seed: int = 0

    @property
    def num_requests(self) -> int:
        """Requests of the trace."""
        return self.trace.num_requests

    @property
    def num_samples(self) -> int:
        """Stretches that are judged and hold requests."""
        judged = batch_edges(self.num_requests)[WARM_UP_BATCHES:]
        return sum(first < last for first, last in pairwise(judged))

    @property
    def duration_seconds(self) -> float:
        """From the trace's first arrival to its last."""
        return self.trace.duration_seconds

    def samples(
        self,
        fleet: ServingFleet,
        *,
        count_tokens: bool,
        on_progress: Callable[[float], None] | None = None,
    ) -> LatencySamples:
        """Return the latencies by batch; see `batches_of`."""
        result = simulate(
            fleet,
            self.trace,
            seed=self.seed,
            count_tokens=count_tokens,
            on_progress=on_progress,
        )
        return batches_of(result, warm_up_batches=WARM_UP_BATCHES)


@dataclass(frozen=True, slots=True)
class DrawnReplay:
    """Requests drawn from a grid of rates, Poisson arrivals, anew for each replication."""

    workload: Workload
    words: str
    num_requests: int
    num_replications: int = 10
    seed: int = 0

    @property
    def num_samples(self) -> int:
        """Replications."""
        return self.num_replications

    @property
    def duration_seconds(self) -> float:
        """How long a replication's requests take to arrive, on average."""
        return self.num_requests / _rate(self.workload)

    def samples(
        self,
        fleet: ServingFleet,
        *,
        count_tokens: bool,
        on_progress: Callable[[float], None] | None = None,
    ) -> LatencySamples:
        """Return the latencies by replication; see `replicate`."""
        return replicate(
            fleet,
            lambda seed: drawn_trace(self.workload, self.num_requests, Random(seed)),
            num_replications=self.num_replications,
            first_seed=self.seed,
            warm_up_batches=WARM_UP_BATCHES,
            count_tokens=count_tokens,
            on_progress=on_progress,
        )


def too_few(replays: Mapping[str, Replay]) -> dict[str, int]:
    """Return the models whose recorded traces hold too few requests to tell anything: how many."""
    return {
        model: replay.num_requests
        for model, replay in replays.items()
        if isinstance(replay, RecordedReplay) and replay.num_requests < FEWEST_RECORDED
    }


def most_requests(workload: Workload) -> int:
    """Return how many requests a replay takes in at the most unless told otherwise."""
    return max(MOST_REQUESTS, math.ceil(_rate(workload) * LONG_SECONDS))


def drawn_requests(workload: Workload, *, most: int) -> int:
    """Return how many requests a replication draws: ten minutes' worth, within bounds."""
    return min(most, max(FEWEST_REQUESTS, math.ceil(_rate(workload) * SETTLED_SECONDS)))


def _rate(workload: Workload) -> float:
    return sum(size.rate_requests_per_second for size in workload.sizes())


def drawn_trace(workload: Workload, num_requests: int, generator: Random) -> Trace:
    """Return requests drawn independently by the rates of a grid, with Poisson arrivals.

    Lengths are uniform in their range, around its mean where the workload states one.
    """
    sizes = [size for size in workload.sizes() if size.rate_requests_per_second > 0]
    below = list(accumulate(size.rate_requests_per_second for size in sizes))
    gaps = (generator.expovariate(below[-1]) for _ in range(num_requests - 1))
    drawn = generator.choices(sizes, cum_weights=below, k=num_requests)
    return Trace(
        arrival_seconds=tuple(accumulate(gaps, initial=0.0)),
        input_tokens=tuple(_input(size, generator) for size in drawn),
        output_tokens=tuple(_output(size, generator) for size in drawn),
    )


def _input(size: RequestSize, generator: Random) -> int:
    drawn = _whole(*size.input_spread_tokens, generator)
    return min(size.input_tokens_up_to, max(size.input_tokens_over + 1, drawn))


def _output(size: RequestSize, generator: Random) -> int:
    drawn = _whole(*size.output_spread_tokens, generator)
    return min(size.output_tokens_up_to, max(size.output_tokens_over + 1, drawn))


def _whole(least: float, most: float, generator: Random) -> int:
    # Half a token beyond both ends makes whole numbers equally likely, the ends too.
    return round(generator.uniform(least - 0.5, most + 0.5))
