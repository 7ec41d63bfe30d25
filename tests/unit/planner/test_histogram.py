"""Grids and histograms: no request is lost, and what lies outside is never silent."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import WorkloadError
from planner.workloads.grid import TIDY, Grid, chosen_ends
from planner.workloads.histogram import histogram_of
from planner.workloads.trace import Trace

LENGTHS = st.integers(1, 300_000)
REQUESTS = st.lists(st.tuples(LENGTHS, LENGTHS), min_size=1, max_size=60)
AXES = st.sets(LENGTHS, min_size=1, max_size=6).map(lambda ends: tuple(sorted(ends)))


def _trace(requests):
    inputs, outputs = zip(*requests, strict=True)
    return Trace(tuple(float(number) for number in range(len(inputs))), inputs, outputs)


def _total(matrix):
    return math.fsum(value for row in matrix for value in row)


def _tokens(histogram, means):
    pairs = zip(sum(histogram.counts, ()), sum(means, ()), strict=True)
    return math.fsum(count * mean for count, mean in pairs if count)


@given(REQUESTS, st.integers(1, 12), st.integers(1, 12))
def test_a_chosen_grid_holds_every_request_once(requests, most_inputs, most_outputs):
    """Counts sum to the requests, counts times means to the tokens, within the ranges asked."""
    trace = _trace(requests)
    grid = Grid.chosen(trace, most_input_ranges=most_inputs, most_output_ranges=most_outputs)
    assert len(grid.input_tokens_up_to) <= most_inputs
    assert len(grid.output_tokens_up_to) <= most_outputs
    histogram = histogram_of(trace, grid)
    assert _total(histogram.counts) == len(requests) == histogram.num_requests
    assert _tokens(histogram, histogram.mean_input_tokens) == pytest.approx(sum(trace.input_tokens))
    assert _tokens(histogram, histogram.mean_output_tokens) == pytest.approx(
        sum(trace.output_tokens)
    )
    assert histogram.notes == ()


@given(REQUESTS, AXES, AXES)
def test_no_grid_of_the_callers_loses_a_request(requests, inputs, outputs):
    """Each counts at least once, and as often as it is longer than the grid in either direction."""
    trace, grid = _trace(requests), Grid(inputs, outputs)
    histogram = histogram_of(trace, grid, extrapolates=True)
    expected = [max(1, i / inputs[-1]) * max(1, o / outputs[-1]) for i, o in requests]
    assert _total(histogram.counts) == pytest.approx(math.fsum(expected))
    num_longer = sum(i > inputs[-1] for i, _ in requests), sum(o > outputs[-1] for _, o in requests)
    assert len(histogram.notes) == sum(number > 0 for number in num_longer)
    if any(num_longer):
        with pytest.raises(WorkloadError, match="are longer than the last"):
            histogram_of(trace, grid)


@given(REQUESTS, AXES, AXES, st.floats(1e-3, 1e3))
def test_every_histogram_is_a_workload_that_keeps_its_rate(requests, inputs, outputs, rate):
    """Means lie in their ranges, shares sum to 1, and the rate grows by what was extrapolated."""
    trace = _trace(requests)
    histogram = histogram_of(trace, Grid(inputs, outputs), extrapolates=True)
    if rate * _total(histogram.counts) / len(requests) > 1e6:
        with pytest.raises(WorkloadError, match="gives no workload: requests_per_second"):
            histogram.workload(requests_per_second=rate)
        return
    sizes = histogram.workload(requests_per_second=rate).sizes()
    total = math.fsum(size.rate_requests_per_second for size in sizes)
    assert total == pytest.approx(rate * _total(histogram.counts) / len(requests))
    assert all(
        (size.mean_input_tokens is None) == (not size.rate_requests_per_second) for size in sizes
    )


def test_extrapolation_by_hand():
    """3,000 tokens beyond an end of 2,000 count as 1.5 requests of 2,000; the note says all."""
    trace = _trace([(3000, 10), (1000, 10), (2000, 30)])
    histogram = histogram_of(trace, Grid((1500, 2000), (20,)), extrapolates=True)
    assert histogram.counts == ((1.0,), (1.5 + 1.5,))
    assert histogram.mean_input_tokens == ((1000.0,), (2000.0,))
    assert histogram.mean_output_tokens[1][0] == pytest.approx((1.5 * 10 + 1.5 * 20) / 3)
    assert histogram.notes == (
        "1 of 3 requests (33.33%) are longer than the last input range, 2,000 tokens; the longest "
        "has 3,000; extrapolated: each counts as its input tokens ÷ 2,000 requests of that range",
        "1 of 3 requests (33.33%) are longer than the last output range, 20 tokens; the longest "
        "has 30; extrapolated: each counts as its output tokens ÷ 20 requests of that range",
    )


def test_a_length_on_an_end_belongs_to_the_range_below():
    """Ends are inclusive."""
    counts = histogram_of(_trace([(10, 1), (11, 1)]), Grid((10, 20), (1,))).counts
    assert counts == ((1.0,), (1.0,))


@given(st.lists(LENGTHS, min_size=1, max_size=80), st.integers(1, 12))
def test_chosen_ends_are_tidy_but_the_last(tokens, most_ranges):
    """They rise, the last is the longest length itself, the others are round numbers."""
    ends = chosen_ends(tokens, most_ranges=most_ranges)
    assert 1 <= len(ends) <= most_ranges
    assert list(ends) == sorted(set(ends))
    assert ends[-1] == max(tokens)
    assert set(ends[:-1]) <= set(TIDY)


def test_the_ranges_share_requests_and_tokens():
    """A thousand short requests and ten long ones with as many tokens: both get ranges."""
    tokens = [*range(1, 1001), *[50_000] * 5, *[100_000] * 3]
    ends = chosen_ends(tokens, most_ranges=4)
    assert ends[-1] == 100_000
    assert any(end <= 1000 for end in ends)
    assert 50_000 in ends


def test_equal_lengths_need_one_range():
    """There is nothing to tell apart."""
    assert chosen_ends([512] * 9, most_ranges=10) == (512,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [((), "is empty"), ((5, 5), "5 follows 5"), ((0, 5), "0 follows 0"), ((2 * 10**9,), "at most")],
)
def test_a_grid_must_rise_from_one(inputs, message):
    """An empty, level or endless axis is refused."""
    with pytest.raises(ValueError, match=message):
        Grid(inputs, (10,))


def test_no_grid_is_chosen_of_nothing():
    """No lengths, or no ranges."""
    for tokens, most_ranges in (([], 3), ([1], 0)):
        with pytest.raises(ValueError, match="give at least 1 of both"):
            chosen_ends(tokens, most_ranges=most_ranges)
