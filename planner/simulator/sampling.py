"""Taking samples of a fleet's latency: many simulations, or one long trace in batches."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import compress

from planner.simulator.events import simulate
from planner.simulator.fleet import ServingFleet
from planner.simulator.gaps import TokenGaps
from planner.simulator.intervals import FEWEST_SAMPLES
from planner.simulator.request_times import RequestTimes
from planner.simulator.result import NUM_BATCHES, SimulationResult
from planner.simulator.samples import LatencySample, LatencySamples
from planner.workloads.trace import Trace


def replicate(
    fleet: ServingFleet,
    trace_of: Callable[[int], Trace],
    *,
    num_replications: int = FEWEST_SAMPLES,
    first_seed: int = 0,
    warm_up_batches: int = 0,
    count_tokens: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> LatencySamples:
    """Simulate a fleet several times; every replication is a sample.

    Args:
        fleet: What serves.
        trace_of: Arrivals by seed. A recorded trace may ignore the seed; then intervals cover the
            router's draws alone, and `batches_of` tells about the trace.
        num_replications: At least 10, seeded one after another.
        first_seed: Of the first replication.
        warm_up_batches: Twentieths of each trace, from its start, that are left out.
        count_tokens: Whether to keep the time between tokens.
        on_progress: Told the fraction done, rising to 1.

    Raises:
        ValueError: If there are too few replications, or the warm-up leaves nothing.
    """
    if num_replications < FEWEST_SAMPLES:
        raise ValueError(
            f"{num_replications} replications; an interval takes at least {FEWEST_SAMPLES}"
        )
    judged = _judged_batches(warm_up_batches)
    samples, waiting = [], []
    for replication in range(num_replications):
        seed = first_seed + replication
        result = simulate(
            fleet,
            trace_of(seed),
            seed=seed,
            count_tokens=count_tokens,
            on_progress=on_progress and _part(on_progress, replication, num_replications),
        )
        samples.append(_sample(result, judged))
        waiting.append(_num_waiting(result))
    together = {
        pool: tuple(map(sum, zip(*(each[pool] for each in waiting), strict=True)))
        for pool in result.pools
    }
    duration = _duration_seconds(result)
    return LatencySamples(tuple(result.pools), tuple(samples), duration, together)


def batches_of(result: SimulationResult, *, warm_up_batches: int = 0) -> LatencySamples:
    """Cut one simulation into twenty stretches of consecutive arrivals; each is a sample.

    The intervals hold as far as batches are long enough to be nearly independent, and for p99 hold
    several hundred requests each.

    Args:
        result: Of one long trace.
        warm_up_batches: How many batches, from the start, are left out; at most ten.

    Raises:
        ValueError: If the warm-up leaves fewer than ten batches.
    """
    judged = _judged_batches(warm_up_batches)
    if len(judged) < FEWEST_SAMPLES:
        raise ValueError(f"{len(judged)} batches; an interval takes at least {FEWEST_SAMPLES}")
    samples = tuple(_sample(result, (batch,)) for batch in judged)
    duration = _duration_seconds(result)
    return LatencySamples(tuple(result.pools), samples, duration, _num_waiting(result))


def _judged_batches(warm_up_batches: int) -> range:
    if not 0 <= warm_up_batches < NUM_BATCHES:
        raise ValueError(f"a warm-up of {warm_up_batches} batches of {NUM_BATCHES}; shorten it")
    return range(warm_up_batches, NUM_BATCHES)


def _part(
    on_progress: Callable[[float], None], index: int, num_parts: int
) -> Callable[[float], None]:
    return lambda fraction: on_progress((index + fraction) / num_parts)


def _sample(result: SimulationResult, batches: Sequence[int]) -> LatencySample:
    """Return the latencies of consecutive batches, pool by pool."""
    requests = slice(result.batch_edges[batches[0]], result.batch_edges[batches[-1] + 1])
    pool_of = [result.replicas[index].pool for index in result.replica_of[requests]]
    has_tpot = [tokens > 1 for tokens in result.output_tokens[requests]]
    gaps = None
    if result.token_gaps is not None:
        counted = [result.token_gaps[batch] for batch in batches]
        gaps = {
            pool: TokenGaps.merged(by_pool[index] for by_pool in counted)
            for index, pool in enumerate(result.pools)
        }
    return LatencySample(
        _by_pool(result.pools, pool_of, result.ttft_seconds(requests)),
        _by_pool(result.pools, compress(pool_of, has_tpot), result.tpot_seconds(requests)),
        gaps,
    )


def _duration_seconds(result: SimulationResult) -> float:
    return result.arrival_seconds[-1] - result.arrival_seconds[0]


def _num_waiting(result: SimulationResult) -> dict[str, tuple[int, ...]]:
    """Return, by pool, the requests without a first token at the last arrival of each twentieth."""
    arrivals = result.arrival_seconds
    looks = [arrivals[max(edge, 1) - 1] for edge in result.batch_edges[1:]]
    counts = {pool: [0] * len(looks) for pool in result.pools}
    for arrival, start, replica in zip(
        arrivals, result.first_token_seconds, result.replica_of, strict=True
    ):
        for look in range(bisect_left(looks, arrival), bisect_left(looks, start)):
            counts[result.replicas[replica].pool][look] += 1
    return {pool: tuple(each) for pool, each in counts.items()}


def _by_pool(
    pools: Iterable[str], pool_of: Iterable[str], seconds: Iterable[float]
) -> dict[str, RequestTimes]:
    values: dict[str, list[float]] = {pool: [] for pool in pools}
    for pool, value in zip(pool_of, seconds, strict=True):
        values[pool].append(value)
    return {pool: RequestTimes(each) for pool, each in values.items()}
