"""Whether a simulated fleet meets a latency target, and which pools' requests miss it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from planner.simulator.intervals import Estimate
from planner.simulator.samples import LatencySamples, Quantity
from planner.workloads.slo import Slo, Statistic

BACKLOG_FRACTION = 0.02
"""Share of all requests that may still wait for their first token when the last one arrives."""

FEWEST_WAITING = 20
"""So few waiting requests are no backlog, however short the trace."""


@dataclass(frozen=True, slots=True)
class PoolOutcome:
    """One pool's part in a target."""

    pool: str
    estimate: Estimate
    """The target's statistic over this pool's requests alone."""
    num_values: int
    """Requests judged; for a target per token, tokens after the first."""
    num_late: int
    """How many of them are above the limit."""


@dataclass(frozen=True, slots=True)
class TargetOutcome:
    """One limit against the simulation, over all requests and pool by pool."""

    target: str
    """In words, such as `TTFT p95` or `TPOT p90 per token`."""
    limit_seconds: float
    estimate: Estimate
    pools: tuple[PoolOutcome, ...]
    """The pools that served somebody."""

    @property
    def is_met(self) -> bool:
        """Tell whether the value is at most the limit."""
        return self.estimate.value <= self.limit_seconds

    @property
    def missing_pools(self) -> tuple[PoolOutcome, ...]:
        """Return the pools that miss the limit on their own, the most late values first.

        Where the fleet misses, some pool does: a mean, or a share of late values, over all requests
        is never above the greatest over a pool. (Interpolation between two neighbouring values can
        break this by less than their distance; then the pool with the most late values is returned.)
        """
        ranked = sorted(self.pools, key=lambda each: each.num_late, reverse=True)
        missing = [each for each in ranked if each.estimate.value > self.limit_seconds]
        return tuple(missing) if missing or self.is_met else tuple(ranked[:1])


def judge(
    slo: Slo, samples: LatencySamples, *, pools: Collection[str] | None = None
) -> tuple[TargetOutcome, ...]:
    """Return the outcome of each limit of a target, time to first token first.

    A fleet that does not keep up with its requests misses one target more, whatever its limits.

    Args:
        slo: The target.
        samples: Replications or batches; with counted tokens for a limit per token.
        pools: Names of the pools whose requests the target is about, such as those of one model;
            nothing: all.

    Raises:
        WorkloadError: If no request has a latency that is limited.
        ValueError: If tokens were not counted, or there is no such pool.
    """
    outcomes = []
    if slo.ttft_seconds is not None:
        name = f"TTFT {slo.ttft_statistic}"
        outcomes.append(
            _outcome(name, "ttft", slo.ttft_statistic, slo.ttft_seconds, samples, pools)
        )
    backlog = _backlog(samples, samples.pools if pools is None else pools)
    if backlog is not None:
        outcomes.append(backlog)
    if slo.tpot_seconds is not None:
        name = f"TPOT {slo.tpot_statistic} per {slo.tpot_per}"
        quantity: Quantity = "token gap" if slo.tpot_per == "token" else "tpot"
        outcomes.append(
            _outcome(name, quantity, slo.tpot_statistic, slo.tpot_seconds, samples, pools)
        )
    return tuple(outcomes)


def _backlog(samples: LatencySamples, pools: Collection[str]) -> TargetOutcome | None:
    """Return the outcome for a fleet that does not keep up; nothing: it does.

    Where more arrives than is served, the queue grows for as long as the replay lasts, and a limit
    on a percentile, or none on the first token, may still be met: the backlog is what tells.

    A fleet falls behind if over `BACKLOG_FRACTION` of all requests wait for their first token at the
    last arrival, and at every look of the last quarter of the replay more wait than at any look of
    its second quarter; looks are the ends of its twentieths. A steady fleet, whose requests may wait
    long, has looks of both quarters on either side; a burst, even one at the end, lifts few of them.

    In seconds of arrivals; the limit is `BACKLOG_FRACTION` of the replay.
    """
    num_requests = samples.num_values("ttft", pools)
    waiting = samples.num_waiting(pools)
    if not _is_growing(waiting) or waiting[-1] <= max(
        FEWEST_WAITING, BACKLOG_FRACTION * num_requests
    ):
        return None
    seconds = samples.duration_seconds
    outcomes = []
    for pool in pools:
        count, late = samples.num_values("ttft", (pool,)), samples.num_waiting((pool,))[-1]
        if count:
            outcomes.append(PoolOutcome(pool, Estimate(late / count * seconds, None), count, late))
    whole = Estimate(waiting[-1] / num_requests * seconds, None)
    limit_seconds = BACKLOG_FRACTION * seconds
    return TargetOutcome("backlog at the end", limit_seconds, whole, tuple(outcomes))


def _is_growing(waiting: Sequence[int]) -> bool:
    quarter = len(waiting) // 4
    return quarter > 0 and min(waiting[-quarter:]) > max(waiting[quarter : 2 * quarter])


def _outcome(
    target: str,
    quantity: Quantity,
    statistic: Statistic,
    limit_seconds: float,
    samples: LatencySamples,
    pools: Collection[str] | None,
) -> TargetOutcome:
    judged = samples.pools if pools is None else pools
    counts = {pool: samples.num_values(quantity, (pool,)) for pool in judged}
    outcomes = tuple(
        PoolOutcome(
            pool,
            samples.estimates(quantity, (pool,))[statistic],
            count,
            samples.num_late(quantity, limit_seconds, (pool,)),
        )
        for pool, count in counts.items()
        if count
    )
    whole = samples.estimates(quantity, judged)[statistic]
    return TargetOutcome(target, limit_seconds, whole, outcomes)
