"""`motley plan profile` as a user meets it: a live endpoint, files, exit codes, one-line errors."""

import json
import socket

import pytest
from fake_completions import FakeCompletions

import motley
from planner.profiling.profile import read_profile

QUICK = ["--input-tokens", "8,16", "--output-tokens", "2,4", "--rates", "300,400"]
QUICK += ["--run-seconds", "0.01", "--max-sequences", "2", "--gpu", "CPU-Xeon-8480"]


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    """No key of the machine reaches the tests."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def target(tmp_path):
    """Return where the profile goes."""
    return tmp_path / "profile.json"


def _profile(url, target, *words, model="tiny"):
    words = ["plan", "profile", url, "--model", model, *QUICK, "--output", target, *words]
    return motley.main([str(word) for word in words])


def _last_error(capsys):
    errors = [line for line in capsys.readouterr().err.splitlines() if "motley: error" in line]
    assert len(errors) == 1
    return errors[0]


def test_an_endpoint_becomes_a_profile(target, capsys):
    """Every cell with its runs, prompts of exact lengths, and what the endpoint says of itself."""
    fake = FakeCompletions(max_model_len=64)
    with fake.served() as url:
        assert _profile(url, target, "--engine", "vllm", "--dtype", "bfloat16") == 0
    profile = read_profile(target)
    assert (profile.gpu, profile.model, profile.engine) == ("cpu-xeon-8480", "tiny", "vllm")
    assert (profile.engine_version, profile.dtype) == ("9.8", "bfloat16")
    assert profile.limits.kv_capacity_tokens == 1600
    assert profile.limits.max_context_tokens == 64
    assert [each.input_tokens for each in profile.lone_prompts] == [2, 4, 8, 16]
    for inputs, row in zip((8, 16), profile.cells, strict=True):
        for outputs, cell in zip((2, 4), row, strict=True):
            assert 1 <= len(cell.runs) <= 2
            for run in cell.runs:
                assert (run.mean_input_tokens, run.mean_output_tokens) == (inputs, outputs)
                assert (run.num_requests, run.num_failures) == (18, 0)
                assert run.ttft.p50_seconds > 0
    printed = capsys.readouterr().out
    assert "requests/s" in printed
    assert "profile.json written" in printed


def test_prompts_differ_and_answers_have_their_length(target):
    """No prompt comes twice, so no prefix cache answers; the end of text is ignored."""
    fake = FakeCompletions()
    with fake.served() as url:
        assert _profile(url + "/v1/", target) == 0
    assert all(body["temperature"] == 0 and body["ignore_eos"] for body in fake.bodies)
    long = [tuple(body["prompt"]) for body in fake.bodies if len(body["prompt"]) == 16]
    assert len(set(long)) == len(long)


def test_an_endpoint_of_texts_is_calibrated(target):
    """Where ids and `ignore_eos` are refused, words make the length and both stay away."""
    fake = FakeCompletions(takes_token_ids=False, takes_ignore_eos=False, words_per_token=2)
    with fake.served() as url:
        assert _profile(url, target) == 0
    profile = read_profile(target)
    assert {run.mean_input_tokens for row in profile.cells for run in row[0].runs} == {8, 16}
    assert all("ignore_eos" not in body for body in fake.bodies[2:])


def test_the_key_comes_from_the_environment(target, monkeypatch):
    """It is sent, and stands in no file."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret-word")
    with FakeCompletions(key="secret-word").served() as url:
        assert _profile(url, target) == 0
    assert "secret-word" not in target.read_text()


BAD_ENDPOINTS = {
    "key": (FakeCompletions(key="other"), "status 401: Invalid key); set OPENAI_API_KEY"),
    "model": (FakeCompletions(model="big"), "model tiny does not exist); check --model tiny"),
    "no counts": (FakeCompletions(counts_tokens=False), "honours stream_options.include_usage"),
    "too short": (FakeCompletions(max_model_len=18), "20 tokens exceed the context of 18"),
    "broken": (FakeCompletions(fails_from=1), "status 500: scripted); see its log"),
}


@pytest.mark.parametrize("name", BAD_ENDPOINTS)
def test_endpoints_that_cannot_be_measured_end_in_one_line(name, target, capsys):
    """Exit code 2, what is wrong and what to do, no file."""
    fake, message = BAD_ENDPOINTS[name]
    with fake.served() as url:
        assert _profile(url, target) == 2
    assert message in _last_error(capsys)
    assert not target.exists()


def test_an_unreachable_endpoint_ends_in_one_line(target, capsys):
    """So does an address that is none."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert _profile(f"http://127.0.0.1:{port}", target) == 2
    assert "cannot be reached" in _last_error(capsys)
    assert _profile("localhost:80", target) == 2
    assert "is no address; write http://host:port" in _last_error(capsys)
    assert not target.exists()


def test_what_was_measured_is_kept(target, capsys):
    """An endpoint that breaks down on the way leaves the stages before it in the file."""
    with FakeCompletions(fails_from=40).served() as url:
        assert _profile(url, target) == 2
    captured = capsys.readouterr()
    assert "what was measured is kept in" in captured.err
    assert "motley: error: " in captured.err.splitlines()[-1]
    assert len(read_profile(target).lone_prompts) == 4


def test_an_interrupt_keeps_what_was_measured(target, monkeypatch, capsys):
    """Ctrl-C ends with 130, the file holds the stages before."""
    from planner.profiling.measure import Measurement

    async def interrupted(self, *size):
        raise KeyboardInterrupt

    monkeypatch.setattr(Measurement, "_cell", interrupted)
    with FakeCompletions().served() as url:
        assert _profile(url, target) == 130
    assert read_profile(target).lone_prompts
    assert "what was measured is kept in" in capsys.readouterr().err


BAD_WORDS = {
    "no model": (["http://x", "--gpu", "L4"], "takes one URL, --model and --gpu (--model missing)"),
    "two addresses": (["http://x", "http://y", "--model", "m", "--gpu", "L4"], "got 2 words"),
    "lengths": (["--input-tokens", "9,3"], "--input-tokens is '9,3'; give rising whole numbers"),
    "rates": (["--rates", "1,nan"], "--rates is '1,nan'; give rising numbers above 0"),
    "zero": (["--rates", "0,1"], "--rates is '0,1'; give rising numbers above 0"),
    "time": (["--run-seconds", "inf"], "--run-seconds is inf; give a finite time above 0"),
    "device": (["--gpu", "two words"], "no device is called two words; near: "),
    "no folder": (["--output", "no/p.json"], "there is no folder"),
}


@pytest.mark.parametrize("name", BAD_WORDS)
def test_bad_words_end_in_one_line_and_no_file(name, tmp_path, monkeypatch, capsys):
    """Exit code 2, before anything is sent."""
    monkeypatch.chdir(tmp_path)
    words, message = BAD_WORDS[name]
    if words[0].startswith("--"):
        words = ["http://127.0.0.1:9", "--model", "m", "--gpu", "L4", *words]
    assert motley.main(["plan", "profile", *words]) == 2
    assert message in _last_error(capsys)
    assert not list(tmp_path.iterdir())


AIBRIX_PROFILE = {
    "tputs": [[2.0, 0.0]],
    "indexes": [[8], [128, 256]],
    "slos": {"percentile": 99, "ttft": 1.0},
}


def test_files_become_a_profile(tmp_path, target, capsys):
    """The target of picked rates is printed and kept."""
    source = tmp_path / "a100.json"
    source.write_text(json.dumps(AIBRIX_PROFILE))
    words = ["--from", source, "--gpu", "A100-80GB", "--model", "m", "--simulated"]
    assert motley.main(["plan", "profile", *map(str, words), "--output", str(target)]) == 0
    profile = read_profile(target)
    assert profile.is_simulated
    assert profile.taken_under.ttft_seconds == 1.0
    printed = capsys.readouterr().out
    for expected in ("picked under the target", "valid for no other", "no claim about cost"):
        assert expected in printed


def test_a_device_that_no_catalogue_lists_is_refused(tmp_path, target, capsys):
    """A misspelled device would be found by no plan; one of the user's own needs its catalogue."""
    source, own = tmp_path / "a100.json", tmp_path / "own.yaml"
    source.write_text(json.dumps(AIBRIX_PROFILE))
    words = ["--from", source, "--gpu", "My-L5", "--model", "m", "--output", target]
    assert motley.main(["plan", "profile", *map(str, words)]) == 2
    assert "no device is called My-L5; near: " in _last_error(capsys)
    assert not target.exists()
    own.write_text(
        "schema_version: 1\ngpus:\n"
        "  - {name: my-l5, memory_bytes: 24GiB, bandwidth_bytes_per_second: 300e+9, "
        "dense_flops_per_second: {bfloat16: 100e+12}, source: a neighbour, date: 2026, "
        "interconnect: {kind: pcie, bytes_per_second: 30e+9}}\n"
    )
    assert motley.main(["plan", "profile", *map(str, words), "--catalogue", str(own)]) == 0
    assert read_profile(target).gpu == "my-l5"


def test_a_bad_file_ends_in_one_line_and_leaves_the_old_profile(tmp_path, target, capsys):
    """Nothing is written until everything is read."""
    target.write_text("old")
    source = tmp_path / "a100.json"
    source.write_text(json.dumps(AIBRIX_PROFILE | {"tputs": [[2.0, -1.0]]}))
    words = ["--from", source, "--gpu", "L4", "--model", "m", "--output", target]
    assert motley.main(["plan", "profile", *map(str, words)]) == 2
    assert "input 256, output 8 tokens: tputs is -1" in _last_error(capsys)
    assert target.read_text() == "old"
