"""Whether a simulated fleet meets a target, and who is to blame where it does not."""

import random
import statistics
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_fleets import LinearStepTimes, fleet, pool

from planner.simulator import batches_of, judge, replicate, simulate
from planner.simulator.request_times import RequestTimes
from planner.simulator.samples import LatencySample, LatencySamples
from planner.workloads.slo import Slo
from planner.workloads.trace import Trace

UNEQUAL = fleet(
    pool("fast", 2, step_times=LinearStepTimes(step=0.005)),
    pool("slow", 2, step_times=LinearStepTimes(step=0.02)),
    row=(0.7, 0.3),
)


def _trace(seed, num_requests=1000):
    draws = random.Random(seed)
    gaps = [draws.expovariate(8.0) for _ in range(num_requests - 1)]
    return Trace(
        list(accumulate(gaps, initial=0.0)),
        [draws.randint(1, 60) for _ in range(num_requests)],
        [draws.randint(1, 40) for _ in range(num_requests)],
    )


def _samples(ttft):
    """Twelve equal samples with these seconds by pool."""
    sample = LatencySample({pool: RequestTimes(times) for pool, times in ttft.items()}, {}, None)
    return LatencySamples(tuple(ttft), (sample,) * 12)


def test_the_pool_with_the_late_requests_is_named():
    """Two of a's 4 requests and none of b's are above the limit, twelve times over."""
    samples = _samples({"a": [1.0, 2.0, 8.0, 9.0], "b": [1.0, 1.0], "idle": []})
    (outcome,) = judge(Slo(ttft_seconds=5.0, ttft_statistic="p90"), samples)
    assert outcome.target == "TTFT p90"
    assert not outcome.is_met
    assert [(each.pool, each.num_values, each.num_late) for each in outcome.pools] == [
        ("a", 48, 24),
        ("b", 24, 0),
    ]
    assert [each.pool for each in outcome.missing_pools] == ["a"]


def test_every_limit_of_a_target_is_judged_by_its_own_statistic():
    """TTFT and TPOT, per request and per token, agree with the result they come from."""
    result = simulate(UNEQUAL, _trace(1), seed=0, count_tokens=True)
    samples = batches_of(result)
    slo = Slo(ttft_seconds=0.1, ttft_statistic="mean", tpot_seconds=0.05, tpot_statistic="p50")
    ttft, tpot = judge(slo, samples)
    assert ttft.estimate.value == pytest.approx(statistics.mean(result.ttft_seconds()))
    assert (tpot.target, tpot.limit_seconds) == ("TPOT p50 per request", 0.05)
    assert tpot.estimate.value == pytest.approx(statistics.median(result.tpot_seconds()))
    assert sum(each.num_late for each in ttft.pools) == sum(
        seconds > 0.1 for seconds in result.ttft_seconds()
    )
    (token,) = judge(Slo(tpot_seconds=0.02, tpot_statistic="mean", tpot_per="token"), samples)
    assert token.target == "TPOT mean per token"
    answers = zip(
        result.first_token_seconds, result.completion_seconds, result.output_tokens, strict=True
    )
    spans = [(last - first, tokens - 1) for first, last, tokens in answers]
    exact = sum(span for span, _ in spans) / sum(tokens for _, tokens in spans)
    assert token.estimate.value == pytest.approx(exact, rel=1e-9)
    assert [each.pool for each in token.missing_pools] == ["slow"]


def test_a_target_can_be_about_some_pools_alone():
    """The pools of one model are judged as if the others were not there."""
    samples = replicate(UNEQUAL, lambda seed: _trace(seed, 200))
    slo = Slo(tpot_seconds=0.02, tpot_statistic="p50")
    (fast,) = judge(slo, samples, pools=("fast",))
    (slow,) = judge(slo, samples, pools=("slow",))
    assert (fast.is_met, slow.is_met) == (True, False)
    assert [each.pool for each in fast.pools] == ["fast"]
    assert fast.estimate == fast.pools[0].estimate


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.floats(0.01, 10), max_size=30), min_size=1
    ).filter(lambda ttft: any(ttft.values())),
    st.floats(0.01, 10),
    st.sampled_from(["mean", "p50", "p90", "p95", "p99"]),
)
def test_a_miss_always_names_a_pool(ttft, limit, statistic):
    """Where the fleet misses, some pool is to blame, and the one with the most late values is first."""
    (outcome,) = judge(Slo(ttft_seconds=limit, ttft_statistic=statistic), _samples(ttft))
    if not outcome.is_met:
        assert outcome.missing_pools
    late = [each.num_late for each in outcome.missing_pools]
    assert late == sorted(late, reverse=True)


@pytest.mark.parametrize(("num_waiting", "keeps_up"), [(20, True), (21, False)])
def test_a_growing_queue_is_a_missed_target(num_waiting, keeps_up):
    """Where over 2 % of the requests wait at the end, the backlog is missed and names its pool."""
    times = {"a": RequestTimes([0.1] * 500), "b": RequestTimes([0.1] * 500)}
    waiting = {"a": (0,) * 20, "b": (*range(19), num_waiting)}
    samples = LatencySamples(("a", "b"), (LatencySample(times, {}, None),), 600.0, waiting)
    outcomes = judge(Slo(ttft_seconds=1.0), samples)
    assert [outcome.is_met for outcome in outcomes] == ([True] if keeps_up else [True, False])
    if not keeps_up:
        backlog = outcomes[1]
        assert backlog.target == "backlog at the end"
        assert backlog.limit_seconds == pytest.approx(12.0)
        assert backlog.estimate.value == pytest.approx(0.021 * 600)
        assert [pool.pool for pool in backlog.missing_pools] == ["b"]


def _targets(num_replicas, arrivals):
    """Return what is judged of requests whose prompts keep a replica busy for over eight seconds."""
    slow = LinearStepTimes(step=0.5, prompt_token=0.0, pair=0.0)
    served = fleet(
        pool("a", num_replicas, step_times=slow, max_sequences=2, kv_capacity_tokens=1500)
    )
    count = len(arrivals)
    result = simulate(served, Trace(arrivals, (1000,) * count, (2,) * count), seed=0)
    outcomes = judge(Slo(ttft_seconds=30.0, ttft_statistic="p95"), batches_of(result))
    return [outcome.target for outcome in outcomes]


def _arrivals(rates_and_seconds):
    """Return Poisson arrivals at one rate after another."""
    draws, arrivals, start = random.Random(4), [], 0.0
    for rate, seconds in rates_and_seconds:
        at = start + draws.expovariate(rate)
        while at < start + seconds:
            arrivals.append(at)
            at += draws.expovariate(rate)
        start += seconds
    return tuple(at - arrivals[0] for at in arrivals)


@pytest.mark.parametrize("seconds", [180, 600])
def test_a_steady_fleet_with_long_prompts_has_no_backlog(seconds):
    """Eight seconds to the first token, well within the limit, however short the replay."""
    assert _targets(160, _arrivals([(10, seconds)])) == ["TTFT p95"]


def test_a_queue_that_grows_is_a_backlog_before_it_is_late():
    """A tenth too few replicas for three minutes: the limit on the first token does not see it."""
    assert _targets(78, _arrivals([(10, 180)])) == ["TTFT p95", "backlog at the end"]


@pytest.mark.parametrize(
    "bursts",
    [[(4, 20), (20, 10)] * 6, [(8, 170), (30, 10)]],
    ids=["on and off", "at the end"],
)
def test_bursts_that_are_served_are_no_backlog(bursts):
    """Bursts lift the queue for a while; the fleet serves it in between, or would."""
    assert _targets(120, _arrivals(bursts)) == ["TTFT p95"]
