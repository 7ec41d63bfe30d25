"""Whether a simulated fleet meets a latency target, and which pools' requests miss it."""

from collections.abc import Collection
from dataclasses import dataclass

from planner.simulator.intervals import Estimate
from planner.simulator.samples import LatencySamples, Quantity
from planner.workloads.slo import Slo, Statistic


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
    if slo.tpot_seconds is not None:
        name = f"TPOT {slo.tpot_statistic} per {slo.tpot_per}"
        quantity: Quantity = "token gap" if slo.tpot_per == "token" else "tpot"
        outcomes.append(
            _outcome(name, quantity, slo.tpot_statistic, slo.tpot_seconds, samples, pools)
        )
    return tuple(outcomes)


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
