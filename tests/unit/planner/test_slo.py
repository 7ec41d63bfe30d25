"""Latency targets: which statistic, of what, and when it is met."""

import statistics

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.workloads.quantiles import quantile
from planner.workloads.slo import Latencies, Slo, evaluate

TIMES = st.lists(st.floats(0, 1e6), min_size=2, max_size=50)


@given(TIMES, st.integers(1, 99))
def test_quantiles_are_those_of_the_standard_library(values, percent):
    """Linear between neighbours, ends included."""
    expected = statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
    assert quantile(sorted(values), percent / 100) == pytest.approx(expected)


@pytest.mark.parametrize(("values", "fraction"), [([], 0.5), ([1.0], 1.1), ([1.0], float("nan"))])
def test_no_quantile_of_nothing_or_outside(values, fraction):
    """No values, or a fraction outside 0-1."""
    with pytest.raises(ValueError, match=r"no values|not from 0 to 1"):
        quantile(values, fraction)


def test_each_limit_is_judged_by_its_own_statistic():
    """TTFT by its mean, TPOT by the p90 of single tokens."""
    text = "{ttft_seconds: 0.5, ttft_statistic: mean, tpot_seconds: 0.04, tpot_statistic: p90, tpot_per: token}"
    slo = Slo.model_validate(yaml.safe_load(text))
    latencies = Latencies(
        ttft_seconds=[0.1, 0.9],
        tpot_per_request_seconds=[1.0],
        tpot_per_token_seconds=[0.01 * number for number in range(1, 12)],
    )
    ttft, tpot = evaluate(slo, latencies)
    assert (ttft.is_met, tpot.is_met) == (True, False)
    assert str(ttft) == "TTFT mean 0.5 s, limit 0.5 s: met"
    assert str(tpot) == "TPOT p90 per token 0.1 s, limit 0.04 s: missed"


def test_one_limit_alone_is_judged_alone():
    """What has no limit needs no measurement."""
    (verdict,) = evaluate(Slo(tpot_seconds=0.1), Latencies(tpot_per_request_seconds=[0.05]))
    assert verdict.target == "TPOT p95 per request"
    assert verdict.is_met


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ttft_seconds": 0},
        {"ttft_seconds": float("nan")},
        {"ttft_seconds": True},
        {"ttft_seconds": 1, "ttft_statistic": "p75"},
        {"tpot_seconds": 1, "tpot_per": "user"},
        {"tpot": 1},
    ],
)
def test_targets_that_say_nothing_are_refused(fields):
    """No limit, none above 0, an unknown statistic or key."""
    with pytest.raises(ValidationError):
        Slo(**fields)


@pytest.mark.parametrize(
    ("times", "message"), [([], "no TTFT was measured"), ([float("nan")], "is nan s"), ([-1], "-1")]
)
def test_a_limit_is_not_judged_by_times_that_are_none(times, message):
    """Missing, NaN or negative measurements are errors, never a pass."""
    with pytest.raises(ValueError, match=message):
        evaluate(Slo(ttft_seconds=1), Latencies(ttft_seconds=times))
