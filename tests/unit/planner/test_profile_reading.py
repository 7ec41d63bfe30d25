"""What a profile says under a latency target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.errors import DocumentError, ProfileError
from planner.profiling.profile import (
    Cell,
    DecodeBatch,
    LatencySummary,
    ObservedLimits,
    Run,
    TakenUnder,
    ThresholdedRate,
    read_profile,
    write_profile,
)
from planner.profiling.profile_assembly import ReplicaFacts, assembled, merged
from planner.profiling.profile_reading import profiled_throughputs
from planner.workloads.slo import Slo

FACTS = ReplicaFacts(gpu="L4", model="m", date="2025-01-01")
SLO = Slo(ttft_seconds=1.0, tpot_seconds=0.1, tpot_statistic="p90")
FAST = dict.fromkeys(LatencySummary.model_fields, 0.01)


def _run(offered, achieved=None, *, ttft=0.5, tpot=0.05, **others):
    fields = {
        "num_requests": 100,
        "duration_seconds": 10,
        "mean_input_tokens": 128,
        "mean_output_tokens": 32,
        "source": "test",
        "ttft": LatencySummary(**(FAST | {"p95_seconds": ttft})),
        "tpot": LatencySummary(**(FAST | {"p90_seconds": tpot})),
    }
    return Run(
        offered_requests_per_second=offered,
        achieved_requests_per_second=achieved or offered,
        **(fields | others),
    )


def _profile(*runs):
    return assembled(FACTS, {(128, 32): Cell(runs=runs)})


def _one(profile, slo=SLO, size=(128, 32), **options):
    (rate,) = profiled_throughputs(profile, [size], slo, **options)
    return rate


def test_the_highest_rate_within_the_target_that_kept_pace_counts():
    """Above it one run is late and one piles up; what was achieved is the value."""
    rate = _one(_profile(_run(1), _run(4, 3.9), _run(5, ttft=1.1), _run(6, 5.3), _run(2)))
    assert rate.requests_per_second == 3.9
    assert rate.reason is rate.note is None


def test_one_profile_answers_every_target():
    """A looser target lets a higher run in, a tighter one leaves a lower."""
    profile = _profile(_run(1, ttft=0.2), _run(2, ttft=0.4), _run(4, ttft=0.8))
    rates = [_one(profile, Slo(ttft_seconds=limit)) for limit in (0.2, 0.5, 1.0)]
    assert [rate.requests_per_second for rate in rates] == [1, 2, 4]


def test_of_repeats_the_lowest_rate_achieved_counts():
    """One lucky run is no capacity."""
    assert _one(_profile(_run(4, 3.9), _run(4, 3.7), _run(4, 4))).requests_per_second == 3.7


UNSERVED = {
    "too late": (
        [_run(2, tpot=0.3), _run(1, tpot=0.2)],
        "at the lowest rate, 1 requests/s, the TPOT",
    ),
    "failures": ([_run(1, num_failures=3)], "3 of 100 requests failed"),
    "saturated": ([_run(2, 1.7), _run(4, 1.8)], "saturated at the lowest rate tested; re-measure"),
    "closed loops": ([_run(None, 2)], "only closed loops were run"),
    "nothing": ([], "input 128, output 32 tokens: not measured; profile it"),
}


@pytest.mark.parametrize("name", UNSERVED)
def test_a_size_without_a_rate_says_why(name):
    """No rate is data with a reason, never a zero."""
    runs, reason = UNSERVED[name]
    rate = _one(_profile(*runs))
    assert rate.requests_per_second is None
    assert reason in rate.reason


def test_a_limit_on_tokens_reads_the_gaps():
    """Per request and per token are different figures."""
    run = _run(1, token_gap=LatencySummary(**(FAST | {"p90_seconds": 0.2})))
    assert _one(_profile(run)).requests_per_second == 1
    slo = Slo(tpot_seconds=0.1, tpot_statistic="p90", tpot_per="token")
    assert "per token is 0.2 s" in _one(_profile(run), slo).reason


def test_answers_of_one_token_have_no_time_per_token():
    """A limit on it cannot be missed."""
    run = _run(1, mean_output_tokens=1, tpot=9.0)
    assert _one(_profile(run.model_copy(update={"tpot": None}))).requests_per_second == 1


def test_a_statistic_the_run_does_not_hold_is_refused():
    """It is not guessed from its neighbours."""
    run = _run(1, ttft=0.5).model_copy(update={"ttft": LatencySummary(p50_seconds=0.1)})
    with pytest.raises(ProfileError, match=r"test holds no TTFT p95 \(it has p50\)"):
        _one(_profile(run))


def _imported(rate=3.0, **target):
    limits = {"statistic": "p99", "ttft_seconds": 1.0, "tpot_per": "token"} | target
    cell = Cell(thresholded=ThresholdedRate(requests_per_second=rate, source="f"))
    return assembled(FACTS, {(128, 32): cell}, taken_under=TakenUnder(**limits))


def test_an_imported_rate_holds_under_its_own_target():
    """The same limits at the same statistics give it, an infeasible size its reason."""
    slo = Slo(ttft_seconds=1.0, ttft_statistic="p99")
    assert _one(_imported(), slo).requests_per_second == 3.0
    assert "no run met the target" in _one(_imported(None), slo).reason


DIFFERENCES = {
    "limit": ({}, Slo(ttft_seconds=2.0, ttft_statistic="p99"), "ttft_seconds 1 against 2"),
    "statistic": ({}, Slo(ttft_seconds=1.0), "ttft_statistic p99 against p95"),
    "a limit more": (
        {},
        Slo(ttft_seconds=1.0, ttft_statistic="p99", tpot_seconds=1.0),
        "tpot_seconds none against 1",
    ),
    "another measure": (
        {"tpot_seconds": 0.1},
        Slo(ttft_seconds=1.0, ttft_statistic="p99", tpot_seconds=0.1, tpot_statistic="p99"),
        "tpot_per token against request",
    ),
    "a limit of theirs": (
        {"end_to_end_seconds": 5.0},
        Slo(ttft_seconds=1.0, ttft_statistic="p99"),
        "end_to_end_seconds 5 against none",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_an_imported_rate_is_refused_under_another_target(name):
    """The difference is named."""
    target, slo, words = DIFFERENCES[name]
    with pytest.raises(ProfileError, match=words):
        _one(_imported(**target), slo)


def test_rates_of_different_targets_do_not_mix():
    """Nor does a rate stand beside runs of its own size."""
    with pytest.raises(ProfileError, match="ttft_seconds 1 against 2"):
        merged([_imported(), _imported(ttft_seconds=2.0)])
    with pytest.raises(ProfileError, match="stands beside other measurements"):
        merged([_imported(), _profile(_run(1))])


def test_profiles_of_one_replica_become_one():
    """Runs of one size stand together, the grid holds both sizes; another device is refused."""
    other = assembled(FACTS, {(128, 32): Cell(runs=(_run(2),)), (512, 32): Cell(runs=(_run(1),))})
    both = merged([_profile(_run(1)), other])
    assert both.input_tokens == (128, 512)
    assert [len(row[0].runs) for row in both.cells] == [2, 1]
    with pytest.raises(ProfileError, match="gpu L4 against T4"):
        merged([both, both.model_copy(update={"gpu": "T4"})])


def _limited(*batches, **limits):
    decoding = tuple(
        DecodeBatch(
            sequences=n, input_tokens=8, context_tokens=40, step_seconds=0.01, num_repetitions=1
        )
        for n in batches
    )
    return assembled(
        FACTS,
        {(128, 32): Cell(runs=(_run(1),))},
        limits=ObservedLimits(**limits),
        decode_batches=decoding,
    )


def test_limits_are_merged_field_by_field():
    """What one profile did not observe another one did, whichever comes first."""
    parts = [_limited(1, 8, max_sequences=8), _limited(1, 4, kv_capacity_tokens=4096)]
    expected = ObservedLimits(max_sequences=8, kv_capacity_tokens=4096)
    assert merged(parts).limits == merged(parts[::-1]).limits == expected


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (_limited(max_sequences=16), "max_sequences 8 against 16"),
        (_limited(max_sequences=8, kv_capacity_tokens=5), "kv_capacity_tokens 4096 against 5"),
        (_limited(1, 16), "max_sequences 8 in one, 16 sequences decoding at once in another"),
    ],
)
def test_limits_that_contradict_each_other_are_refused(other, words):
    """Two numbers for one limit, or a batch above it, are of two settings of the engine."""
    with pytest.raises(ProfileError, match=words):
        merged([_limited(max_sequences=8, kv_capacity_tokens=4096), other])


def _grid(rates):
    cells = {
        (inputs, outputs): Cell(runs=(_run(rate),) if rate else ())
        for (inputs, outputs), rate in zip(
            [(100, 10), (100, 20), (200, 10), (200, 20)], rates, strict=True
        )
    }
    return assembled(FACTS, cells)


def test_between_cells_the_time_of_a_request_is_interpolated():
    """Halfway between 1 / 4 and 1 / 2 seconds are 3 / 8."""
    rate = _one(_grid([4, 4, 2, 2]), size=(150, 10))
    assert rate.requests_per_second == pytest.approx(8 / 3)
    assert "interpolated between cells up to input 200, output 10" in rate.note


def test_smaller_sizes_count_as_the_smallest_cell():
    """That understates what the replica can, and says so."""
    rate = _one(_grid([4, 3, 2, 1]), size=(50, 20))
    assert rate.requests_per_second == 3
    assert rate.note == "input 50, output 20 tokens: taken as input 100, output 20 tokens"


def test_beside_an_unknown_cell_the_next_larger_one_counts():
    """Where that is unknown too there is no rate."""
    assert _one(_grid([4, None, 2, 1]), size=(150, 15)).requests_per_second == 1
    assert "not measured" in _one(_grid([4, 3, 2, None]), size=(150, 15)).reason


def test_beyond_the_grid_is_refused_or_extrapolated_in_proportion():
    """Never dropped, never taken for the last cell."""
    profile = _grid([4, 3, 2, 1])
    assert "beyond the profile's longest cells" in _one(profile, size=(400, 20)).reason
    rate = _one(profile, size=(400, 30), extrapolates=True)
    assert rate.requests_per_second == pytest.approx(1 / 3)
    assert "a request counts as 3 of input 200, output 20" in rate.note


@given(
    st.floats(100, 200),
    st.floats(10, 20),
    st.tuples(st.floats(0.1, 1), st.floats(0.1, 1), st.floats(0.1, 1)),
)
def test_interpolated_rates_lie_between_their_cells_and_fall_with_size(inputs, outputs, parts):
    """Larger requests never get a higher rate where the cells do not say so."""
    low = parts[0] * min(parts[1:])
    profile = _grid([1, parts[1], parts[2], low])
    here = _one(profile, size=(inputs, outputs)).requests_per_second
    assert low * (1 - 1e-9) <= here <= 1 + 1e-9
    larger = _one(profile, size=(min(200, inputs + 10), min(20, outputs + 1))).requests_per_second
    assert larger <= here * (1 + 1e-9)


def test_the_document_survives_its_file(tmp_path):
    """What is written is what is read."""
    path = tmp_path / "profile.json"
    write_profile(_imported(), path)
    assert read_profile(path) == _imported()


BAD_PROFILES = {
    "another version": ({"schema_version": 2}, "schema_version: is 2, read is 1"),
    "another kind": ({"kind": "plan"}, "kind: Input should be 'profile'"),
    "ragged": ({"cells": []}, "cells is no 1 by 1 matrix"),
    "falling axis": ({"input_tokens": [9, 9]}, "input_tokens does not rise: 9 follows 9"),
    "target without rates": (
        {"taken_under": {"statistic": "mean"}},
        "taken_under must stand beside",
    ),
    "unknown key": ({"slo": 1}, "slo: unknown key"),
    "axes the other way": ({"cell_axes": ["output_tokens", "input_tokens"]}, "cell_axes.0"),
}


@pytest.mark.parametrize("name", BAD_PROFILES)
def test_bad_profiles_are_refused(name, tmp_path):
    """In one line, with the field."""
    import json

    change, message = BAD_PROFILES[name]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(_profile(_run(1)).model_dump(mode="json") | change))
    with pytest.raises(DocumentError, match=message):
        read_profile(path)


def test_a_summary_holds_mean_and_percentiles():
    """Linear between values, as load generators report them."""
    summary = LatencySummary.of([4.0, 1.0, 2.0, 3.0, 0.0])
    assert summary.mean_seconds == 2.0
    assert (summary.p50_seconds, summary.p90_seconds) == pytest.approx((2.0, 3.6))
    assert (summary.p95_seconds, summary.p99_seconds) == pytest.approx((3.8, 3.96))
