"""Result files of other load generators, written by hand after their documentation."""

import json

import pytest

from planner.errors import DocumentError, ProfileError
from planner.profiling.profile_files import profile_from_files

VLLM = {
    "date": "20250101-120000",
    "backend": "vllm",
    "model_id": "org/model",
    "num_prompts": 100,
    "request_rate": 4.0,
    "burstiness": 1.0,
    "max_concurrency": None,
    "duration": 26.0,
    "completed": 98,
    "total_input_tokens": 98 * 128,
    "total_output_tokens": 98 * 32,
    "request_throughput": 3.8,
    "mean_ttft_ms": 200.0,
    "median_ttft_ms": 180.0,
    "std_ttft_ms": 20.0,
    "p99_ttft_ms": 400.0,
    "mean_tpot_ms": 30.0,
    "median_tpot_ms": 29.0,
    "std_tpot_ms": 2.0,
    "p99_tpot_ms": 40.0,
    "mean_itl_ms": 31.0,
    "median_itl_ms": 28.0,
    "p99_itl_ms": 90.0,
}


def _metric(unit, value, **percentiles):
    return {"unit": unit, "avg": value, **percentiles}


PERCENTILES = {"p50": 180.0, "p90": 300.0, "p95": 350.0, "p99": 400.0}
AIPERF = {
    "schema_version": "1.4",
    "request_throughput": _metric("requests/sec", 3.8),
    "request_count": _metric("requests", 98.0),
    "error_request_count": _metric("requests", 2.0),
    "benchmark_duration": _metric("sec", 26.0),
    "input_sequence_length": _metric("tokens", 128.0, p50=128.0),
    "output_sequence_length": _metric("tokens", 32.0, p50=32.0),
    "time_to_first_token": _metric("ms", 200.0, **PERCENTILES),
    "inter_token_latency": _metric("us", 30000.0, p50=29000.0, p99=40000.0),
    "was_cancelled": False,
    "input_config": {
        "endpoint": {"model_names": ["org/model"]},
        "loadgen": {"request_rate": 4.0, "concurrency": 64},
    },
}


def _aibrix(metric, mean, **others):
    head = {"input_tokens": 128, "output_tokens": 32, "request_rate": 4.0, "seed": 0}
    head |= {"model": "llama", "temperature": 0.0, "samples": 100, "metric": metric, "mean": mean}
    return head | others


LATENCY = {"P50": 0.18, "P90": 0.3, "P99": 0.4}
AIBRIX = [
    _aibrix("TPUT", 3.8),
    _aibrix("TT", 121.6),
    _aibrix("E2E", 1.1, **LATENCY),
    _aibrix("TTFT", 0.2, **LATENCY),
    _aibrix("TPOT", 0.03, P50=0.029, P90=0.035, P99=0.04),
]
AIBRIX_PROFILE = {
    "gpu": "simulator-a100",
    "cost": 1.0,
    "tputs": [[62.5, 32.3], [60.3, 0.0], [3.9, 3.8]],
    "indexes": [[4, 8, 16], [128, 256]],
    "created": 1748888478.2,
    "e2e": [[0.1, 0.1], [0.2, 0.2], [0.3, 0.3]],
    "slos": {"percentile": 99, "e2e": 5.0},
}


def _read(tmp_path, *contents, gpu="L4", **options):
    paths = []
    for number, content in enumerate(contents):
        path = tmp_path / f"file{number}.json"
        rows = content if isinstance(content, list) else [content]
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
        paths.append(path)
    options = {"model": None, "date": "2025-01-01"} | options
    return profile_from_files(paths, gpu=gpu, **options)


def _only_run(profile):
    ((cell,),) = profile.cells
    (run,) = cell.runs
    return run


@pytest.mark.parametrize("content", [VLLM, AIPERF, AIBRIX], ids=["vllm", "aiperf", "aibrix"])
def test_every_format_gives_the_same_run(content, tmp_path):
    """Rates, counts and the time to first token are read into the same fields and seconds."""
    profile = _read(tmp_path, content)
    assert (profile.input_tokens, profile.output_tokens) == ((128,), (32,))
    run = _only_run(profile)
    assert run.offered_requests_per_second == 4.0
    assert run.achieved_requests_per_second == 3.8
    assert run.num_requests == 100
    assert run.duration_seconds == pytest.approx(26, abs=0.5)
    assert run.ttft.mean_seconds == pytest.approx(0.2)
    assert run.ttft.p50_seconds == pytest.approx(0.18)
    assert run.ttft.p99_seconds == pytest.approx(0.4)


def test_times_per_token_keep_what_they_are_of(tmp_path):
    """AIPerf and vLLM tell a request's own mean, AIBrix the tokens', vLLM both."""
    vllm, aiperf, aibrix = (_only_run(_read(tmp_path, each)) for each in (VLLM, AIPERF, AIBRIX))
    assert vllm.tpot.p99_seconds == aiperf.tpot.p99_seconds == pytest.approx(0.04)
    assert vllm.token_gap.p99_seconds == pytest.approx(0.09)
    assert aiperf.token_gap is None
    assert aibrix.tpot is None
    assert aibrix.token_gap.p90_seconds == 0.035


def test_failures_are_counted(tmp_path):
    """Also where the file tells only how many were sent and answered."""
    assert _only_run(_read(tmp_path, VLLM)).num_failures == 2
    assert _only_run(_read(tmp_path, AIPERF)).num_failures == 2
    newer = VLLM | {"failed": 5, "num_prompts": 98 + 5}
    assert _only_run(_read(tmp_path, newer)).num_failures == 5


def test_all_requests_of_a_detailed_result_give_every_percentile(tmp_path):
    """What vLLM's summary leaves out follows from the requests themselves; failed ones do not."""
    details = {
        "ttfts": [0.1, 0.2, 0.3, 0.0],
        "itls": [[0.01, 0.03], [0.02, 0.02], [0.05, 0.01], []],
        "output_lens": [3, 3, 3, 0],
        "errors": ["", "", "", "timeout"],
    }
    run = _only_run(_read(tmp_path, VLLM | details))
    assert run.ttft.p50_seconds == pytest.approx(0.2)
    assert run.ttft.p95_seconds == pytest.approx(0.29)
    assert run.tpot.p50_seconds == pytest.approx(0.02)
    assert run.token_gap.p50_seconds == pytest.approx(0.02)


def test_a_closed_loop_offers_no_rate(tmp_path):
    """`inf`, or a concurrency alone, is kept as what it is."""
    run = _only_run(_read(tmp_path, VLLM | {"request_rate": "inf", "max_concurrency": 16}))
    assert (run.offered_requests_per_second, run.max_in_flight) == (None, 16)
    config = AIPERF["input_config"] | {"loadgen": {"concurrency": 8}}
    run = _only_run(_read(tmp_path, AIPERF | {"input_config": config}))
    assert (run.offered_requests_per_second, run.max_in_flight) == (None, 8)


def test_newer_aiperf_configurations_are_read(tmp_path):
    """Their rate stands with the phase, their model in a list of models."""
    config = {
        "models": {"items": [{"name": "org/new"}]},
        "phases": [{"name": "warmup", "rate": 1.0}, {"name": "profiling", "rate": 4.0}],
    }
    profile = _read(tmp_path, AIPERF | {"input_config": config})
    assert profile.model == "org/new"
    assert _only_run(profile).offered_requests_per_second == 4.0


def test_files_and_lines_make_one_grid(tmp_path):
    """Runs of one size stand together, sizes nobody measured stay empty."""
    longer = VLLM | {"total_output_tokens": 98 * 64, "total_input_tokens": 98 * 512}
    faster = VLLM | {"request_rate": 8.0, "request_throughput": 5.0}
    profile = _read(tmp_path, [VLLM, faster], longer)
    assert (profile.input_tokens, profile.output_tokens) == ((128, 512), (32, 64))
    assert [[len(cell.runs) for cell in row] for row in profile.cells] == [[2, 0], [0, 1]]


def test_a_picked_rate_keeps_its_target_and_axes(tmp_path):
    """AIBrix's rows are outputs; its zero is a size that nothing met, as data."""
    profile = _read(tmp_path, AIBRIX_PROFILE, model="llama")
    assert (profile.input_tokens, profile.output_tokens) == ((128, 256), (4, 8, 16))
    rates = [[cell.thresholded.requests_per_second for cell in row] for row in profile.cells]
    assert rates == [[62.5, 60.3, 3.9], [32.3, None, 3.8]]
    assert profile.taken_under.statistic == "p99"
    assert profile.taken_under.end_to_end_seconds == 5.0


def test_own_profiles_are_merged(tmp_path):
    """A second measurement of the same replica adds its runs."""
    one = _read(tmp_path, VLLM).model_dump(mode="json")
    assert len(_read(tmp_path, one, one).cells[0][0].runs) == 2


def test_own_profiles_without_any_run_are_refused(tmp_path):
    """A grid whose every cell is empty says nothing about the replica."""
    empty = _read(tmp_path, VLLM).model_dump(mode="json") | {"cells": [[{}]]}
    with pytest.raises(ProfileError, match="no run of any size was measured"):
        _read(tmp_path, empty, empty)


TPOT = {"inter_token_latency": _metric("ms", 0.0)}
BAD_CONTENTS = {
    "zero": (
        VLLM | {"p99_ttft_ms": 0.0},
        "input 128, output 32 tokens: p99_ttft_ms is 0; a measured value is above 0",
    ),
    "NaN": (VLLM | {"mean_tpot_ms": float("nan")}, "mean_tpot_ms is nan, no finite number"),
    "infinite": (VLLM | {"request_throughput": float("inf")}, "request_throughput is inf"),
    "negative": (VLLM | {"duration": -1}, "duration is -1; a measured value is above 0"),
    "words": (VLLM | {"request_rate": "fast"}, "request_rate is 'fast', no number"),
    "missing": (VLLM | {"request_rate": None}, "request_rate is missing"),
    "no latency": ({k: v for k, v in VLLM.items() if "ttft" not in k}, "mean_ttft_ms is missing"),
    "nothing done": (VLLM | {"completed": 0}, "completed is 0; a measured value is above 0"),
    "aiperf zero": (AIPERF | TPOT, "inter_token_latency: avg is 0; a measured value"),
    "aiperf unit": (
        AIPERF | {"time_to_first_token": _metric("minutes", 1.0)},
        "time_to_first_token: unit is minutes, none of ns, us, ms",
    ),
    "aiperf cancelled": (AIPERF | {"was_cancelled": True}, "was_cancelled is true"),
    "aiperf no load": (
        AIPERF | {"input_config": {}},
        "holds neither request_rate nor concurrency",
    ),
    "aibrix zero": (
        [*AIBRIX[:4], _aibrix("TPOT", 0.0, **LATENCY)],
        "input 128, output 32 tokens, 4 requests/s, TPOT: mean is 0",
    ),
    "aibrix NaN": (
        [_aibrix("TPUT", float("nan")), *AIBRIX[1:]],
        "input 128, output 32 tokens, 4 requests/s, TPUT: mean is nan",
    ),
    "aibrix part": (AIBRIX[:4], "4 requests/s: the metric TPOT is missing"),
    "aibrix twice": (
        [*AIBRIX, AIBRIX[0]],
        "TPUT of input 128, output 32 tokens stands there twice",
    ),
    "aibrix profile NaN": (
        AIBRIX_PROFILE | {"tputs": [[1, 1], [1, float("nan")], [1, 1]]},
        "input 256, output 8 tokens: tputs is nan",
    ),
    "aibrix profile ragged": (AIBRIX_PROFILE | {"tputs": [[1, 1]]}, "tputs is no 3 by 2 matrix"),
    "aibrix profile percentile": (
        AIBRIX_PROFILE | {"slos": {"percentile": 42}},
        "slos: percentile is 42, none of 0, 50, 90 and 99",
    ),
    "unknown": ({"a": 1}, "has the fields of no known result format"),
    "no object": ([[1], [2]], "holds something else than JSON objects"),
}


@pytest.mark.parametrize("name", BAD_CONTENTS)
def test_bad_contents_name_cell_field_and_value(name, tmp_path):
    """A zero or NaN never becomes a speed."""
    content, message = BAD_CONTENTS[name]
    with pytest.raises(DocumentError) as caught:
        _read(tmp_path, content, model="m")
    assert message in str(caught.value)
    assert "file0.json" in str(caught.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    """Of other models, under other targets, or a profile beside raw results."""
    other = VLLM | {"model_id": "org/other"}
    with pytest.raises(ProfileError, match=r"several models \(org/model, org/other"):
        _read(tmp_path, VLLM, other)
    assert _read(tmp_path, VLLM, other, model="org/model").model == "org/model"
    target = AIBRIX_PROFILE | {"slos": {"percentile": 99, "e2e": 9.0}}
    with pytest.raises(ProfileError, match="end_to_end_seconds 5 against 9"):
        _read(tmp_path, AIBRIX_PROFILE, target, model="m")
    own = _read(tmp_path, VLLM).model_dump(mode="json")
    with pytest.raises(ProfileError, match="make a profile of the latter"):
        _read(tmp_path, own, VLLM)


def test_what_no_file_tells_must_be_said(tmp_path):
    """The device always, the model where the files are silent."""
    with pytest.raises(ProfileError, match="name it with --gpu"):
        _read(tmp_path, VLLM, gpu=None)
    with pytest.raises(ProfileError, match="name no model; name it with --model"):
        _read(tmp_path, AIBRIX_PROFILE)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("{", "line 1 is no JSON"), ('{"kind": "profile"}', "gpu: is required")],
)
def test_files_of_no_form_are_refused(text, message, tmp_path):
    """One line names the file and what is wrong."""
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DocumentError, match=message):
        profile_from_files([path], gpu="L4", model=None, date="2025-01-01")
    with pytest.raises(DocumentError, match="no such file"):
        profile_from_files([tmp_path / "none"], gpu="L4", model=None, date="2025-01-01")
