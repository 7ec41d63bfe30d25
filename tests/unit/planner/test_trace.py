"""Traces: what they promise, scaling, one model's requests."""

import math

import pytest

from planner.errors import WorkloadError
from planner.workloads.trace import MOST_TOKENS, Trace

TRACE = Trace((0.0, 1.0, 1.0, 4.0), (10, 20, 30, 40), (1, 2, 3, 4), models=("a", "b", "a", ""))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (((), (), ()), "at least one request"),
        (((0.0, 1.0), (1,), (1, 1)), "differ in length"),
        (((1.0, 2.0), (1, 1), (1, 1)), "let them start at 0"),
        (((0.0, math.inf), (1, 1), (1, 1)), "run from 0.0 to inf"),
        (((0.0, math.nan), (1, 1), (1, 1)), "run from 0.0 to nan"),
        (((0.0, math.nan, 1.0), (1,) * 3, (1,) * 3), "an arrival at nan s follows"),
        (((0.0, 2.0, 1.0), (1,) * 3, (1,) * 3), "an arrival at 1.0 s follows one at 2.0 s"),
        (((0.0,), (0,), (1,)), "input_tokens holds 0"),
        (((0.0,), (1,), (MOST_TOKENS + 1,)), "output_tokens holds 1000000001"),
        (((0.0,), (math.nan,), (1,)), "input_tokens holds nan"),
        (((0.0,), (1,), (1,), ("m",), (0,)), "max_tokens holds 0"),
    ],
)
def test_what_is_no_trace_is_refused(columns, message):
    """Each promise of a trace is checked where it is made, and the message has the value."""
    with pytest.raises(ValueError, match=message):
        Trace(*columns)


def test_the_rate_is_the_reciprocal_of_the_mean_gap():
    """Three gaps in four seconds."""
    assert TRACE.rate_requests_per_second == pytest.approx(3 / 4)
    assert TRACE.duration_seconds == 4


def test_scaling_stretches_every_gap_alike():
    """At twice the rate the same requests arrive in half the time."""
    faster = TRACE.scaled(requests_per_second=1.5)
    assert faster.arrival_seconds == (0, 0.5, 0.5, 2)
    assert faster.rate_requests_per_second == pytest.approx(1.5)
    assert faster.input_tokens == TRACE.input_tokens


@pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf])
def test_no_trace_is_scaled_to_a_rate_that_is_none(rate):
    """A rate is finite and above 0."""
    with pytest.raises(ValueError, match="finite number above 0"):
        TRACE.scaled(requests_per_second=rate)


def test_requests_that_arrive_at_once_have_no_rate():
    """Neither a rate nor gaps to stretch."""
    burst = Trace((0.0, 0.0), (1, 1), (1, 1))
    with pytest.raises(WorkloadError, match="--requests-per-second"):
        _ = burst.rate_requests_per_second
    with pytest.raises(WorkloadError, match="no gaps to stretch"):
        burst.scaled(requests_per_second=1)
    alone = Trace((0.0,), (1,), (1,))
    with pytest.raises(WorkloadError, match="holds one request, too few for a rate or gaps"):
        _ = alone.rate_requests_per_second
    with pytest.raises(WorkloadError, match="holds one request, too few for a rate or gaps"):
        alone.scaled(requests_per_second=1)


def test_one_models_requests_start_at_zero():
    """Every field keeps the same requests."""
    trace = Trace((0.0, 1.0, 3.0), (1, 2, 3), (4, 5, 6), ("a", "b", "b"), (None, 7, 8))
    assert trace.of_model("b") == Trace((0.0, 2.0), (2, 3), (5, 6), ("b", "b"), (7, 8))
    with pytest.raises(WorkloadError, match="no request of the trace is for 'c'; it names b, a"):
        trace.of_model("c")


def test_requests_without_a_model_are_named_or_refused():
    """A count and what to say; nothing changes where all are named."""
    assert TRACE.with_unnamed("c").models == ("a", "b", "a", "c")
    assert Trace((0.0,), (1,), (1,)).with_unnamed("c").models == ("c",)
    with pytest.raises(WorkloadError, match="1 of 4 requests of the trace name no model"):
        TRACE.with_unnamed(None)
    named = TRACE.of_model("a")
    assert named.with_unnamed(None) is named
