"""Latency with confidence intervals: many simulations, or one long trace in batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.simulator.events import simulate
from planner.simulator.fleet import ServingFleet
from planner.simulator.percentiles import (
    FEWEST_SAMPLES,
    STATISTICS,
    Estimate,
    half_width,
    summarise,
)
from planner.simulator.result import SimulationResult
from planner.simulator.trace import Trace


@dataclass(frozen=True, slots=True)
class LatencyEstimates:
    """Every statistic of the latency over requests, by name, with its interval."""

    ttft_seconds: Mapping[str, Estimate]
    """Time to first token."""
    tpot_seconds: Mapping[str, Estimate]
    """Time per output token of the requests that have more than one."""
    num_samples: int
    """Replications or batches behind each interval."""


def replicate(
    fleet: ServingFleet,
    trace_of: Callable[[int], Trace],
    *,
    num_replications: int = FEWEST_SAMPLES,
    first_seed: int = 0,
    warm_up_fraction: float = 0.0,
) -> LatencyEstimates:
    """Return the mean of each statistic over replications, whose spread gives the interval.

    Args:
        fleet: What serves.
        trace_of: Arrivals by seed. A recorded trace may ignore the seed; then the interval covers
            the router's draws alone, and `batch_means` tells about the trace.
        num_replications: At least 10, seeded one after another.
        first_seed: Of the first replication.
        warm_up_fraction: Share of each trace, from its start, left out of the statistics.

    Raises:
        ValueError: If there are too few replications, or nothing is left to judge.
    """
    _check_samples(num_replications)
    ttfts, tpots = [], []
    for seed in range(first_seed, first_seed + num_replications):
        result = simulate(fleet, trace_of(seed), seed=seed)
        judged = slice(int(warm_up_fraction * len(result.arrival_seconds)), None)
        ttfts.append(summarise(result.ttft_seconds(judged)))
        tpots.append(summarise(result.tpot_seconds(judged)))
    return LatencyEstimates(_averages(ttfts), _averages(tpots), num_replications)


def batch_means(result: SimulationResult, *, num_batches: int = 20) -> LatencyEstimates:
    """Return each statistic of one simulation; the spread over batches gives the interval.

    A batch is a stretch of consecutive arrivals; all are equally long, give or take one request.
    The interval holds as far as batches are long enough to be nearly independent.

    Args:
        result: Of one long trace.
        num_batches: At least 10.

    Raises:
        ValueError: If there are too few batches, or one has no request to judge.
    """
    _check_samples(num_batches)
    num_requests = len(result.arrival_seconds)
    edges = [num_requests * batch // num_batches for batch in range(num_batches + 1)]
    batches = [slice(*ends) for ends in pairwise(edges)]
    ttfts = [summarise(result.ttft_seconds(batch)) for batch in batches]
    tpots = [summarise(result.tpot_seconds(batch)) for batch in batches]
    return LatencyEstimates(
        _around(summarise(result.ttft_seconds()), ttfts),
        _around(summarise(result.tpot_seconds()), tpots),
        num_batches,
    )


def _check_samples(number: int) -> None:
    if number < FEWEST_SAMPLES:
        raise ValueError(f"{number} samples; an interval takes at least {FEWEST_SAMPLES}")


def _averages(samples: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    means = {name: sum(sample[name] for sample in samples) / len(samples) for name in STATISTICS}
    return _around(means, samples)


def _around(
    values: Mapping[str, float], samples: Sequence[Mapping[str, float]]
) -> dict[str, Estimate]:
    return {
        name: Estimate(values[name], half_width([sample[name] for sample in samples]))
        for name in STATISTICS
    }
