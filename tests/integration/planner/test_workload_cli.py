"""`motley plan workload` as a user meets it: tables, files, exit codes, one-line errors."""

import pytest

import motley
from planner.documents import read_document
from planner.workloads.mixes import MIXES
from planner.workloads.trace_readers import read_trace
from planner.workloads.workload_file import WorkloadFile

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
AZURE = HEADER + "".join(
    f"2024-05-10 00:00:{second:02}.0000000,{100 * (second + 1)},{10 * (second + 1)}\n"
    for second in range(11)
)
BURSTGPT = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
0,,1,ChatGPT,100,10,110,API log
1,,1,GPT-4,200,20,220,API log
2,,1,ChatGPT,300,30,330,API log
3,,1,GPT-4,50,0,50,API log
4,,1,ChatGPT,400,40,440,API log
"""


@pytest.fixture
def trace(tmp_path):
    """Return a file of eleven requests, one a second, of 100 to 1,100 input tokens."""
    path = tmp_path / "trace.csv"
    path.write_text(AZURE)
    return path


def _run(*words):
    return motley.main(["plan", "workload", *map(str, words)])


def _one_line_error(capsys):
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("motley: error: ")
    assert len(captured.err.splitlines()) == 1
    return captured.err


def test_a_trace_is_summed_up_and_written(trace, tmp_path, capsys):
    """Rates, percentiles and the histogram on the screen, the same workload in the file."""
    target = tmp_path / "workload.yaml"
    assert _run(trace, "--output", target) == 0
    printed = capsys.readouterr().out
    for expected in ("trace.csv (azure)", "10.0 s", "p95", "600", "1,050", "1,100"):
        assert expected in printed
    workload = read_document(target, WorkloadFile).workload
    assert workload.requests_per_second == 1
    assert sum(map(sum, workload.histogram_fraction)) == pytest.approx(1)
    assert target.read_text().startswith("# 11 requests in 10 s of trace.csv (azure).\n")


def test_json_and_another_rate(trace, tmp_path, capsys):
    """The suffix chooses the form; the rate is the user's, in the trace written too."""
    target, scaled = tmp_path / "workload.json", tmp_path / "scaled.jsonl"
    words = ["--output", target, "--trace-output", scaled, "--requests-per-second", 4]
    assert _run(trace, *words) == 0
    assert f"{scaled} written" in capsys.readouterr().out.replace("\n", " ")
    assert read_document(target, WorkloadFile).workload.requests_per_second == 4
    back = read_trace(scaled).trace
    assert back.rate_requests_per_second == pytest.approx(4)
    assert back.input_tokens == read_trace(trace).trace.input_tokens


def test_a_trace_at_its_own_rate_is_written_unchanged(trace, tmp_path, capsys):
    """No gap is touched where no rate is asked for."""
    target = tmp_path / "same.jsonl"
    assert _run(trace, "--trace-output", target) == 0
    capsys.readouterr()
    assert read_trace(target).trace == read_trace(trace).trace


def test_one_model_of_several(tmp_path, capsys):
    """Its rate is its share of the whole; without a choice the mixture is noted."""
    path, target = tmp_path / "burst.csv", tmp_path / "workload.yaml"
    path.write_text(BURSTGPT)
    assert _run(path, "--model", "ChatGPT", "--output", target) == 0
    printed = capsys.readouterr().out
    assert "burst.csv (burstgpt), model ChatGPT" in printed
    assert "note: 1 of 5 requests were not answered (1 with no output tokens, line 5)" in printed
    assert read_document(target, WorkloadFile).workload.requests_per_second == pytest.approx(
        3 / 4 * 3 / 4
    )
    assert "# Note: 1 of 5 requests were not answered" in target.read_text()
    assert _run(path) == 0
    assert "2 models are counted together; pick one with model (--model)" in capsys.readouterr().out


def test_what_is_beyond_the_grid_is_extrapolated_with_a_note(trace, tmp_path, capsys):
    """How many, which direction, by which rule; the rate grows by what was too long."""
    target = tmp_path / "workload.yaml"
    words = ["--input-tokens-up-to", "500,1000", "--output", target]
    assert _run(trace, *words) == 2
    error = _one_line_error(capsys)
    assert "1 of 11 requests (9.09%) are longer than the last input range, 1,000 tokens" in error
    assert "--extrapolate" in error
    assert not target.exists()
    assert _run(trace, *words, "--extrapolate") == 0
    assert "each counts as its input tokens ÷ 1,000 requests" in capsys.readouterr().out
    workload = read_document(target, WorkloadFile).workload
    assert workload.input_tokens_up_to == (500, 1000)
    assert workload.requests_per_second == pytest.approx(11.1 / 11)


def test_broken_rows_are_left_out_only_when_allowed(trace, capsys):
    """The count, the line and the reason in the error, and in the note."""
    trace.write_text(AZURE + "2024-05-10 00:00:30,nan,4\n")
    assert _run(trace) == 2
    error = _one_line_error(capsys)
    assert "1 of 12 rows are broken (line 13: ContextTokens is 'nan', no finite number)" in error
    assert _run(trace, "--broken-rows-fraction", "0.1") == 0
    assert "note: 1 of 12 rows are broken (line 13: " in capsys.readouterr().out


def test_unsorted_rows_are_sorted_only_when_asked(trace, capsys):
    """The same of disorder."""
    trace.write_text(AZURE + "2024-05-10 00:00:05,100,4\n")
    assert _run(trace) == 2
    assert "1 of 12 rows arrive before a row above them (line 13)" in _one_line_error(capsys)
    assert _run(trace, "--sort-rows") == 0
    assert "(line 13); they were sorted" in capsys.readouterr().out


@pytest.mark.parametrize("name", MIXES)
def test_every_mix_gives_a_workload_and_is_named_in_the_help(name, tmp_path, capsys):
    """At the asked rate, with its source; the same seed writes the same file."""
    words = [name, "--requests-per-second", 2, "--duration-seconds", 300, "--seed", 5]
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    assert _run(*words, "--gap-scv", 2, "--output", first) == 0
    printed = capsys.readouterr().out
    assert f"mix {name}, gamma arrivals of SCV 2, seed 5" in printed
    assert "note: synthetic lengths: " in printed
    assert read_document(first, WorkloadFile).workload.requests_per_second == 2
    assert _run(*words, "--gap-scv", 2, "--output", second) == 0
    assert first.read_bytes() == second.read_bytes()
    capsys.readouterr()
    assert _run("--help") == 0
    assert name in capsys.readouterr().out


def test_the_plot_is_a_png(trace, tmp_path, capsys):
    """Sizes and arrivals; requests that arrive at once have no rate to draw."""
    pytest.importorskip("matplotlib")
    target = tmp_path / "workload.png"
    assert _run(trace, "--plot", target) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    trace.write_text(HEADER + "2024-05-10 00:00:01,5,5\n" * 2)
    assert _run(trace, "--plot", target, "--requests-per-second", 3) == 0
    capsys.readouterr()


def test_a_plot_without_matplotlib_is_refused_before_the_work(trace, tmp_path, capsys, monkeypatch):
    """The message says what to install, and no file appears."""
    monkeypatch.setattr("planner.plots.find_spec", lambda name: None)
    target, plot = tmp_path / "workload.yaml", tmp_path / "workload.png"
    assert _run(trace, "--output", target, "--plot", plot) == 2
    assert "pip install 'motley[plot]'" in _one_line_error(capsys)
    assert not target.exists()


BAD_WORDS = {
    "no such file": (["missing.csv"], "no such file, and no mix of this name (chat, code"),
    "a folder": (["."], "cannot be read"),
    "a mix without rate": (["chat"], "has no rate of its own; give one with --requests-per"),
    "rate of 0": (["chat", "--requests-per-second", 0], "give a finite number of at least 1e-06"),
    "NaN rate": (
        ["chat", "--requests-per-second", "nan"],
        "give a finite number of at least 1e-06",
    ),
    "NaN fraction": (["TRACE", "--broken-rows-fraction", "nan"], "a number from 0 to 1"),
    "endless mix": (
        ["chat", "--requests-per-second", 1, "--duration-seconds", "inf"],
        "duration is inf s",
    ),
    "NaN burstiness": (["chat", "--requests-per-second", 1, "--gap-scv", "nan"], "gap_scv is nan"),
    "too many requests": (["chat", "--requests-per-second", 1e6], "shorten the duration"),
    "a file's option on a mix": (
        ["chat", "--requests-per-second", 1, "--sort-rows"],
        "--sort-rows has no meaning here: chat is a mix (./chat would be a file); leave it out",
    ),
    "a mix's option on a file": (["TRACE", "--seed", 3], "--seed has no meaning here: "),
    "unknown format": (["TRACE", "--format", "csv"], "use one of: azure, burstgpt, mooncake"),
    "another format": (["TRACE", "--format", "burstgpt"], "its header lacks Timestamp, Model"),
    "unknown model": (["TRACE", "--model", "x"], "no request of the trace is for 'x'; it names"),
    "ranges in words": (["TRACE", "--input-tokens-up-to", "1,x"], "--input-tokens-up-to is '1,x'"),
    "falling ranges": (["TRACE", "--output-tokens-up-to", "9,1"], "does not rise: 1 follows 9"),
    "output of another kind": (["TRACE", "--output", "w.txt"], "must end in .yaml or .yml or"),
    "plot of another kind": (["TRACE", "--plot", "w.pdf"], "must end in .png; rename it"),
    "no folder": (["TRACE", "--output", "no/w.yaml"], "there is no folder"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words_end_in_one_line_and_no_file(name, trace, tmp_path, capsys, monkeypatch):
    """Exit code 2, what is wrong and what to do, nothing printed, nothing written."""
    monkeypatch.chdir(tmp_path)
    words, message = BAD_WORDS[name]
    words = [trace if word == "TRACE" else word for word in words]
    if "--output" not in words:
        words += ["--output", tmp_path / "workload.yaml"]
    assert _run(*words) == 2
    assert message in _one_line_error(capsys)
    assert list(tmp_path.iterdir()) == [trace]


BAD_FILES = {
    "empty": ("", "is empty; a trace holds at least one request"),
    "header alone": (HEADER, "holds no answered request in 0 rows"),
    "nobody answered": (HEADER + "2024-05-10,5,0\n", "1 of 1 requests were not answered"),
    "unknown columns": ("a,b\n1,2\n", "line 1 has the fields of no known trace format"),
    "another log version": (
        '{"schema_version": 9, "arrival_unix_seconds": 0, "prompt_tokens": 1, "completion_tokens": 1}',
        "schema_version is 9; this reader knows 1",
    ),
    "NaN in JSON": (
        '{"timestamp": 0, "input_length": NaN, "output_length": 1}',
        "line 1: input_length is nan, no finite number",
    ),
    "all at once": (HEADER + "2024-05-10,5,5\n" * 2, "so it has no rate; plan for the grid"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_traces_end_in_one_line_and_no_file(name, trace, tmp_path, capsys):
    """The same of what the file holds."""
    text, message = BAD_FILES[name]
    trace.write_text(text)
    assert _run(trace, "--output", tmp_path / "workload.yaml") == 2
    assert message in _one_line_error(capsys)
    assert list(tmp_path.iterdir()) == [trace]


def test_an_old_file_survives_a_failure(trace, tmp_path, capsys):
    """Nothing is written until every content is known."""
    target = tmp_path / "workload.yaml"
    target.write_text("old")
    trace.write_text(HEADER + "2024-05-10,5,5\n" * 2)
    words = ["--requests-per-second", 3, "--output", target]
    assert _run(trace, *words, "--trace-output", tmp_path / "scaled.jsonl") == 2
    assert "no gaps to stretch" in _one_line_error(capsys)
    assert target.read_text() == "old"
    assert sorted(tmp_path.iterdir()) == [trace, target]
