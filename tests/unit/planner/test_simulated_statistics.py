"""Percentiles, confidence intervals, replications and gaps."""

import random
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from serving_fleets import LinearStepTimes, fleet, pool

from planner.simulator import Trace, batch_means, replicate, simulate
from planner.simulator.gaps import TokenGaps
from planner.simulator.percentiles import STATISTICS, half_width, student_quantile, summarise
from planner.simulator.runs import StepRun

SERIAL = fleet(pool(step_times=LinearStepTimes(1.0, 0.0, 0.0, 0.0, 0.0), max_sequences=1))


def _m_d_1(seed, num_requests=4000):
    draws = random.Random(seed)
    arrivals = list(accumulate(draws.expovariate(0.5) for _ in range(num_requests)))
    return Trace(arrivals, [1] * num_requests, [2 - (i % 2) for i in range(num_requests)])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_statistics_are_numpys(values):
    """Mean and percentiles are those of the usual definition."""
    summary = summarise(values)
    expected = [np.mean(values), *np.quantile(values, [0.5, 0.9, 0.95, 0.99])]
    assert list(summary) == list(STATISTICS)
    assert list(summary.values()) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_no_value_has_no_statistic():
    """An empty sample is the caller's mistake, not a zero."""
    with pytest.raises(ValueError, match="no request"):
        summarise([])


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
    estimates = replicate(SERIAL, _m_d_1, warm_up_fraction=0.1)
    assert estimates.num_samples == 10
    assert list(estimates.ttft_seconds) == list(STATISTICS)
    # M/G/1: services are 1 s and 2 s in turn, load 0.75; alternation waits a little less.
    mean = estimates.ttft_seconds["mean"]
    assert 0.3 < mean.value - 1.0 < 0.5 * 2.5 / (2 * 0.25)
    assert 0 < mean.half_width < 0.3
    assert estimates.tpot_seconds["p99"].value == pytest.approx(1.0)
    assert estimates.tpot_seconds["p99"].half_width == pytest.approx(0.0, abs=1e-9)


def test_batch_means_agree_with_replications():
    """One long trace in batches gives the same mean within both intervals."""
    batches = batch_means(simulate(SERIAL, _m_d_1(99, 40_000), seed=0))
    runs = replicate(SERIAL, _m_d_1, first_seed=7)
    ours, theirs = batches.ttft_seconds["mean"], runs.ttft_seconds["mean"]
    assert abs(ours.value - theirs.value) < ours.half_width + theirs.half_width
    assert batches.num_samples == 20


def test_batch_means_keep_the_whole_traces_statistics():
    """Batches only give the interval: the value is that of all requests."""
    result = simulate(SERIAL, _m_d_1(4, 1003), seed=0)
    estimates = batch_means(result, num_batches=10)
    expected = summarise(result.ttft_seconds())
    assert {name: each.value for name, each in estimates.ttft_seconds.items()} == expected


def test_fewer_than_ten_samples_are_refused():
    """Neither nine replications nor nine batches make an interval."""
    with pytest.raises(ValueError, match="9 samples"):
        replicate(SERIAL, _m_d_1, num_replications=9)
    with pytest.raises(ValueError, match="9 samples"):
        batch_means(simulate(SERIAL, _m_d_1(1, 100), seed=0), num_batches=9)
    with pytest.raises(ValueError, match="3 samples"):
        half_width([1.0, 2.0, 3.0])


def test_a_long_run_of_gaps_is_spread_over_its_bins():
    """A run whose steps double in length counts like its steps, one by one."""
    run = StepRun(0.0, 0.01, 1e-5, 1001)
    gaps = TokenGaps()
    gaps.add_run(run, 3)
    assert len(gaps) == 3003
    for fraction in (0.0, 0.25, 0.5, 1.0):
        assert gaps.percentile(fraction) == pytest.approx(0.01 + 0.01 * fraction, rel=0.005)
    with pytest.raises(ValueError, match="ask 0 to 1"):
        gaps.percentile(1.5)
    with pytest.raises(ValueError, match="of 0 gaps"):
        TokenGaps().percentile(0.5)


@given(st.floats(0, 1e-3), st.integers(1, 400), st.floats(0, 1.5), st.floats(0.001, 0.1))
def test_a_run_is_cut_after_the_first_step_past_the_instant(growth, steps, part, first):
    """The cut run is the shortest that ends after the instant, or the whole run."""
    run = StepRun(2.0, first, growth, steps)
    now = 2.0 + part * (run.end_after(steps) - 2.0)
    cut = run.cut_after(now)
    past = [each for each in range(1, steps + 1) if run.end_after(each) > now]
    assert cut.num_steps == (past[0] if past else steps)
