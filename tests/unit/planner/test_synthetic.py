"""Synthetic traces: the published lengths, the asked rate and burstiness, the same seed."""

from random import Random
from statistics import fmean

import pytest

from planner.errors import WorkloadError
from planner.workloads.mixes import MIXES
from planner.workloads.quantiles import quantile
from planner.workloads.synthetic import synthetic_trace
from planner.workloads.trace_summary import summary_of

PUBLISHED_MEANS = {
    "chat": (1154.7, 211.1),
    "code": (2047.8, 27.9),
    "short-chat": (69.5, 214.5),
    "long-input": (3043 * 4 / 3, 215 * 4 / 3),
    "mixed-80-20": (0.8 * 69.5 + 0.2 * 3043 * 4 / 3, 0.8 * 214.5 + 0.2 * 215 * 4 / 3),
}


@pytest.mark.parametrize("name", MIXES)
def test_each_mix_has_the_means_its_source_states(name):
    """Within 4 %, on 50,000 draws."""
    drawn = MIXES[name].draw(50_000, Random(7))
    assert tuple(map(fmean, drawn)) == pytest.approx(PUBLISHED_MEANS[name], rel=0.04)
    assert all(min(tokens) >= 1 for tokens in drawn)
    assert MIXES[name].source


@pytest.mark.parametrize(
    ("name", "fraction", "inputs", "outputs"),
    [
        ("chat", 0.5, 1020, 129),
        ("chat", 0.9, 2735, 424),
        ("chat", 0.99, 4142, 601),
        ("code", 0.5, 1469, 13),
        ("code", 0.9, 5194, 55),
        ("code", 0.99, 7436, 252),
    ],
)
def test_measured_mixes_have_the_published_percentiles(name, fraction, inputs, outputs):
    """Azure's, within 4 % or one token, on 50,000 draws."""
    drawn = MIXES[name].draw(50_000, Random(3))
    for tokens, expected in zip(drawn, (inputs, outputs), strict=True):
        assert quantile(sorted(tokens), fraction) == pytest.approx(expected, rel=0.04, abs=1)


@pytest.mark.parametrize("gap_scv", [0, 0.5, 1, 4])
def test_arrivals_have_the_asked_rate_and_burstiness(gap_scv):
    """Mean and squared variation of 20,000 gaps, within five standard errors and more."""
    trace = synthetic_trace(
        "code",
        requests_per_second=20,
        duration_seconds=1000,
        generator=Random(1),
        gap_scv=gap_scv,
    )
    summary = summary_of(trace)
    assert summary.rate_requests_per_second == pytest.approx(20, rel=0.08)
    assert summary.gap_scv == pytest.approx(gap_scv, rel=0.15, abs=1e-9)
    assert trace.duration_seconds <= 1000


def test_the_same_seed_gives_the_same_trace():
    """And another seed another."""

    def drawn(seed):
        return synthetic_trace(
            "chat", requests_per_second=5, duration_seconds=60, generator=Random(seed)
        )

    assert drawn(4) == drawn(4)
    assert drawn(4) != drawn(5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mix_name": "x"}, "no mix 'x'; use one of: chat, code, short-chat"),
        ({"requests_per_second": 0}, "rate is 0 requests/s"),
        ({"requests_per_second": float("nan")}, "rate is nan"),
        ({"duration_seconds": float("inf")}, "duration is inf s"),
        ({"gap_scv": float("nan")}, "gap_scv is nan"),
        ({"gap_scv": -1}, "gap_scv is -1"),
        ({"duration_seconds": 1e9}, "above 10,000,000; shorten the duration"),
    ],
)
def test_impossible_requests_are_refused(change, message):
    """Before anything is drawn."""
    given = {"mix_name": "chat", "requests_per_second": 5, "duration_seconds": 10} | change
    with pytest.raises(WorkloadError, match=message):
        synthetic_trace(**given, generator=Random(0))
