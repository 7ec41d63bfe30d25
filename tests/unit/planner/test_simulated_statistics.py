"""Percentiles, confidence intervals, replications and gaps."""

import random
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from serving_fleets import LinearStepTimes, fleet, pool

from planner.errors import WorkloadError
from planner.simulator import batches_of, replicate, simulate
from planner.simulator.gaps import TokenGaps
from planner.simulator.intervals import half_width, student_quantile
from planner.simulator.request_times import RequestTimes
from planner.simulator.runs import StepRun
from planner.simulator.samples import STATISTICS
from planner.workloads.trace import Trace

SERIAL = fleet(pool(step_times=LinearStepTimes(1.0, 0.0, 0.0, 0.0, 0.0), max_sequences=1))


def _m_d_1(seed, num_requests=4000):
    draws = random.Random(seed)
    gaps = [draws.expovariate(0.5) for _ in range(num_requests - 1)]
    arrivals = list(accumulate(gaps, initial=0.0))
    return Trace(arrivals, [1] * num_requests, [2 - (i % 2) for i in range(num_requests)])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_statistics_are_numpys(values):
    """Mean and percentiles are those of the usual definition."""
    times = RequestTimes(values)
    expected = [np.mean(values), *np.quantile(values, [0.5, 0.9, 0.95, 0.99])]
    assert [times.statistic(name) for name in STATISTICS] == pytest.approx(
        expected, rel=1e-9, abs=1e-6
    )
    assert times.num_above(0.5) == sum(value > 0.5 for value in values)
    halves = (RequestTimes(values[::2]), RequestTimes(values[1::2]))
    assert RequestTimes.merged(halves).statistic("p95") == times.statistic("p95")


def test_no_value_has_no_statistic():
    """An empty sample is the caller's mistake, not a zero."""
    with pytest.raises(ValueError, match="no mean of no requests"):
        RequestTimes().statistic("mean")


@pytest.mark.parametrize("degrees", [9, 10, 19, 49, 1000])
def test_student_quantile_is_scipys(degrees):
    """The expansion is good to 1e-3 wherever an interval is allowed."""
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=1e-3)


def test_intervals_cover_the_mean_as_often_as_they_say():
    """Of 2000 intervals from ten normal samples, about 95 % hold the mean."""
    draws = random.Random(0)
    covered = 0
    for _ in range(2000):
        sample = [draws.gauss(3.0, 2.0) for _ in range(10)]
        covered += abs(sum(sample) / 10 - 3.0) <= half_width(sample)
    assert 0.935 <= covered / 2000 <= 0.965


def test_replications_surround_the_known_mean():
    """Ten reseeded M/D/1-like queues estimate a mean service time of 1.5 s with waiting on top."""
    samples = replicate(SERIAL, _m_d_1, warm_up_batches=2)
    assert samples.num_values("ttft") == 10 * 3600
    ttft, tpot = samples.estimates("ttft"), samples.estimates("tpot")
    assert list(ttft) == list(STATISTICS)
    # M/G/1: services are 1 s and 2 s in turn, load 0.75; alternation waits a little less.
    assert 0.3 < ttft["mean"].value - 1.0 < 0.5 * 2.5 / (2 * 0.25)
    assert 0 < ttft["mean"].half_width < 0.3
    assert tpot["p99"].value == pytest.approx(1.0)
    assert tpot["p99"].half_width == pytest.approx(0.0, abs=1e-9)


def test_batches_agree_with_replications():
    """One long trace in batches gives the same mean within both intervals."""
    batches = batches_of(simulate(SERIAL, _m_d_1(99, 40_000), seed=0))
    ours = batches.estimates("ttft")["mean"]
    theirs = replicate(SERIAL, _m_d_1, first_seed=7).estimates("ttft")["mean"]
    assert abs(ours.value - theirs.value) < ours.half_width + theirs.half_width
    assert len(batches.samples) == 20


def test_batches_keep_the_whole_traces_statistics():
    """Batches only give the interval: the value is that of all requests after the warm-up."""
    result = simulate(SERIAL, _m_d_1(4, 1003), seed=0)
    for batches, first in ((0, 0), (3, 150)):
        estimates = batches_of(result, warm_up_batches=batches).estimates("ttft")
        whole = RequestTimes(result.ttft_seconds(slice(first, None)))
        assert {name: each.value for name, each in estimates.items()} == {
            name: whole.statistic(name) for name in STATISTICS
        }


def test_too_few_samples_make_no_interval():
    """Nine replications or batches are refused, nine samples with a value have no interval."""
    with pytest.raises(ValueError, match="9 replications"):
        replicate(SERIAL, _m_d_1, num_replications=9)
    result = simulate(SERIAL, _m_d_1(1, 9), seed=0)
    with pytest.raises(ValueError, match="9 batches"):
        batches_of(result, warm_up_batches=11)
    with pytest.raises(ValueError, match="a warm-up of 20 batches"):
        batches_of(result, warm_up_batches=20)
    assert half_width([1.0] * 9) is None
    assert batches_of(result).estimates("ttft")["p50"].half_width is None


def test_what_was_not_simulated_cannot_be_asked():
    """Pools that do not exist, gaps nobody counted and answers of one token have no statistic."""
    samples = batches_of(simulate(SERIAL, Trace([0.0], [1], [1]), seed=0))
    with pytest.raises(ValueError, match="no pool z; there are a"):
        samples.estimates("ttft", ("z",))
    with pytest.raises(ValueError, match="count_tokens"):
        samples.estimates("token gap")
    with pytest.raises(WorkloadError, match="no request has a tpot"):
        samples.estimates("tpot")


def test_progress_of_replications_rises_to_one():
    """Each replication is an equal part of the work."""
    heard = []
    replicate(SERIAL, lambda seed: _m_d_1(seed, 40), on_progress=heard.append)
    assert heard == sorted(heard)
    assert len(heard) == 200
    assert heard[-1] == 1.0


def test_gaps_fall_into_the_batch_and_pool_that_served_them():
    """Per-token samples cover every gap once; a warm-up leaves its own out."""
    two = fleet(pool("a"), pool("b"))
    trace = Trace([2.0 * i for i in range(40)], [5] * 40, [11] * 40)
    result = simulate(two, trace, seed=0, count_tokens=True)
    samples, late = batches_of(result), batches_of(result, warm_up_batches=10)
    assert samples.num_values("token gap") == 400
    assert samples.num_values("token gap", ("a",)) == 10 * result.replicas[0].num_requests
    assert abs(late.num_values("token gap") - 200) <= 10
    estimate = samples.estimates("token gap")["p50"]
    assert estimate.value == pytest.approx(samples.estimates("tpot")["p50"].value, rel=0.005)
    assert estimate.half_width < 0.005 * estimate.value


def test_a_long_run_of_gaps_is_spread_over_its_bins():
    """A run whose steps double in length counts like its steps, one by one."""
    gaps, steps = TokenGaps(), [0.01 + 1e-5 * step for step in range(1001)]
    gaps.add_run(StepRun(0.0, 0.01, 1e-5, 1001), 3)
    assert len(gaps) == 3003
    assert gaps.statistic("mean") == pytest.approx(0.015, rel=1e-12)
    for name, fraction in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert gaps.statistic(name) == pytest.approx(0.01 + 0.01 * fraction, rel=0.005)
    above = 3 * sum(step > 0.0151 for step in steps)
    assert abs(gaps.num_above(0.0151) - above) <= 3 * 8
    with pytest.raises(ValueError, match="no p50 of no gaps"):
        TokenGaps().statistic("p50")


@given(st.floats(0, 1e-3), st.integers(1, 400), st.floats(0, 1.5), st.floats(0.001, 0.1))
def test_a_run_is_cut_after_the_first_step_past_the_instant(growth, steps, part, first):
    """The cut run is the shortest that ends after the instant, or the whole run."""
    run = StepRun(2.0, first, growth, steps)
    now = 2.0 + part * (run.end_after(steps) - 2.0)
    cut = run.cut_after(now)
    past = [each for each in range(1, steps + 1) if run.end_after(each) > now]
    assert cut.num_steps == (past[0] if past else steps)
