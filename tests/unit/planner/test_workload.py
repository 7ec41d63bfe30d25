"""Workloads: both ways to state one, and what is refused."""

import pytest
from pydantic import ValidationError

from planner.workloads.workload import Workload

GRID = {"input_tokens_up_to": [100, 1000], "output_tokens_up_to": [50]}


def test_a_histogram_and_a_total_rate_give_rates():
    """Each size's rate is its share of the total."""
    workload = Workload(**GRID, histogram_fraction=[[0.25], [0.75]], requests_per_second=8)
    assert [size.rate_requests_per_second for size in workload.sizes()] == [2, 6]


def test_sizes_keep_their_ranges_row_by_row():
    """A range starts where the one before it ends."""
    second = Workload(**GRID, rates_requests_per_second=[[1], [0]]).sizes()[1]
    assert str(second) == "input 101-1000, output 1-50 tokens"
    assert second.rate_requests_per_second == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"histogram_fraction": [[0.25], [0.7]], "requests_per_second": 8}, "sums to 0.95, not"),
        ({"histogram_fraction": [[0.25], [0.75]]}, "holds no requests; give"),
        ({"requests_per_second": 3}, "holds no requests; give"),
        ({}, "holds no requests; give"),
        ({"rates_requests_per_second": [[0], [0]]}, "it sums to 0"),
        ({"rates_requests_per_second": [[1], [2, 3]]}, "2 numbers in row 2"),
        ({"rates_requests_per_second": [[1]]}, "1 rows, the workload 2 input ranges"),
        ({"rates_requests_per_second": [[1], [1]], "requests_per_second": 2}, "stands beside"),
        ({"rates_requests_per_second": [[1], [-1]]}, "greater than or equal to 0"),
        ({"rates_requests_per_second": [[1], [float("nan")]]}, "finite"),
        ({"rates_requests_per_second": [[1], [float("inf")]]}, "finite"),
        ({"rates_requests_per_second": [[1], [True]]}, "not true or false"),
        ({"histogram_fraction": [[1], [0]], "requests_per_second": 0}, "greater than 0"),
    ],
)
def test_bad_workloads_are_refused(fields, message):
    """What is wrong is said with its value."""
    with pytest.raises(ValidationError, match=message):
        Workload(**GRID, **fields)


def test_ranges_must_rise():
    """Upper ends out of order are named."""
    with pytest.raises(ValidationError, match="input_tokens_up_to does not rise: 50 follows 100"):
        Workload(
            input_tokens_up_to=[100, 50],
            output_tokens_up_to=[50],
            rates_requests_per_second=[[1], [1]],
        )


RATES = {"rates_requests_per_second": [[1], [0]]}


def test_mean_sizes_stand_beside_the_rates():
    """Nothing where no requests are; nothing at all where no means are given."""
    workload = Workload(**GRID, **RATES, mean_input_tokens=[[70.5], [None]])
    assert [size.mean_input_tokens for size in workload.sizes()] == [70.5, None]
    assert [size.mean_output_tokens for size in workload.sizes()] == [None, None]


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ([[100.5], [None]], "of input 1-100, output 1-50 tokens is 100.5, outside its range"),
        ([[None], [100]], "of input 101-1000, output 1-50 tokens is 100, outside its range"),
        ([[float("nan")], [None]], "finite"),
        ([[50]], "1 rows, the workload 2 input ranges"),
    ],
)
def test_means_outside_their_range_are_refused(means, message):
    """A mean that its range cannot hold belongs to another size."""
    with pytest.raises(ValidationError, match=message):
        Workload(**GRID, **RATES, mean_input_tokens=means)
