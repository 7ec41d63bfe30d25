"""`motley plan speculate`: from names to a choice with its reasons."""

import json
import re

import pytest
from plan_commands import failure

import motley

PAIR = ["meta-llama/Llama-2-7b-hf", "--draft", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"]
BOX = [*PAIR, "--hardware", "cpu-epyc-9654,L4"]


def _printed(capsys, *words):
    assert motley.main(["plan", "speculate", *words]) == 0
    return capsys.readouterr().out


def _choice(printed):
    """Return rows, device and speed-up of the choice; rows 1 for no speculation."""
    if "choice: no speculation" in printed:
        return 1, None, 1.0
    found = re.search(r"choice: (\d+) rows, .* on (\S+), ([\d.]+)x without", printed)
    assert found, printed
    return int(found[1]), found[2], float(found[3])


def _curve(folder, **changes):
    content = {"schema_version": 1, "target": {"rows": [1, 32], "seconds": [0.1, 0.11]}} | changes
    path = folder / "curve.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_a_small_gpu_drafts_for_a_large_cpu(capsys):
    """The draft goes to the GPU with room for it; the notes say what is not measured."""
    printed = _printed(capsys, *BOX, "--gpu-memory", "6GiB")
    rows, device, speed_up = _choice(printed)
    assert device == "L4"
    assert rows > 2
    assert speed_up > 1.5
    assert "- L4 holds the draft: 2.1 of 6.0 GiB free" in printed
    assert "predicted (coefficients motley-cpu, vllm), not measured" in printed
    assert "acceptance 0.7 is given, not measured" in printed


def test_a_gpu_too_small_leaves_the_draft_on_the_cpu(capsys):
    """The reason gives both sizes."""
    printed = _printed(capsys, *BOX, "--gpu-memory", "1GiB")
    assert _choice(printed)[1] == "cpu-epyc-9654"
    assert "- L4 cannot hold the draft: 2.1 GiB needed, 1.0 GiB free" in printed


def test_ranks_of_guesses_give_trees_and_crowds_make_them_small(capsys):
    """Second guesses make a tree; 16 requests draft less each than one alone."""
    acceptance = ["--acceptance", "0.6/0.15/0.06,0.5/0.12,0.4/0.1"]
    printed = _printed(capsys, *BOX, *acceptance)
    assert "a tree of top-" in printed
    crowd = _printed(capsys, *BOX, *acceptance, "--concurrent-requests", "16")
    assert _choice(crowd)[0] < _choice(printed)[0]


def test_a_draft_that_is_seldom_right_is_not_used(capsys):
    """No speculation is a choice, with its reason."""
    printed = _printed(capsys, *PAIR, "--hardware", "cpu-epyc-9654", "--acceptance", "0.05")
    assert _choice(printed) == (1, None, 1.0)
    assert "- no chain pays: verifying 2 rows costs" in printed


def test_measured_costs_stand_in_for_predicted_ones(capsys, tmp_path):
    """A hostile measured curve turns off what the prediction would do; a kind one is used."""
    hostile = _curve(tmp_path, target={"rows": [1, 32], "seconds": [0.1, 3.2]})
    assert _choice(_printed(capsys, *BOX, "--curve", hostile))[0] == 1
    free = {"rows": [1, 32], "seconds": [0.001, 0.001]}
    printed = _printed(
        capsys, *BOX, "--curve", _curve(tmp_path, drafts={"L4": free, "cpu-epyc-9654": free})
    )
    assert _choice(printed)[0] > 8
    assert "predicted" not in printed
    printed = _printed(capsys, *BOX, "--curve", _curve(tmp_path))
    assert "costs of the draft on cpu-epyc-9654, L4 are predicted" in printed


def test_the_shipped_family_and_quantised_weights_are_taken(capsys, tiny_family):
    """Folders name models as hub ids do, and a device may be there twice."""
    words = [str(tiny_family / "target"), "--draft", str(tiny_family / "draft")]
    printed = _printed(capsys, *words, "--hardware", "L4,L4", "--target-dtype", "int8")
    assert "- L4:1 " in printed
    assert "- L4:0 " in printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*PAIR, "--hardware", "L5"], "no device is called L5"),
        ([*PAIR, "--hardware", "L4,"], "--hardware is 'L4,'; give names"),
        (["nobody", *PAIR[1:], "--hardware", "L4"], "no model is called nobody"),
        ([*BOX, "--acceptance", "often"], "--acceptance is 'often'"),
        ([*BOX, "--acceptance", "0.7,1.2"], "acceptance 1.2 at depth 2"),
        ([*BOX, "--acceptance", "nan"], "acceptance nan at depth 1"),
        ([*BOX, "--acceptance", "0.7/0.5"], "sum to 1.2"),
        ([*BOX, "--acceptance", ""], "--acceptance is ''"),
        ([*BOX, "--gpu-memory", "much"], "--gpu-memory 'much' is no size"),
        ([*BOX, "--gpu-memory", "-1"], "--gpu-memory '-1' is no size"),
        ([*BOX, "--concurrent-requests", "0"], "concurrent-requests"),
        ([*BOX, "--pre-draft-hits", "nan"], "nan"),
        (
            [*BOX, "--context-tokens", "5000"],
            "takes 4096 tokens of context, --context-tokens is 5000",
        ),
        ([*BOX, "--target-dtype", "fp6"], "fp6"),
        ([*PAIR, "--hardware", "T4", "--target-dtype", "bfloat16"], "cannot compute"),
        (
            [*PAIR, "--hardware", "T4", "--target-dtype", "float32"],
            "takes 26.1 GiB and T4 has 13.5 GiB free",
        ),
        ([*BOX, "--curve", "nowhere.json"], "nowhere.json: no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(words, told, capsys):
    """What is wrong, the value, what to do."""
    code, message = failure(capsys, ["plan", "speculate", *words])
    assert code == 2
    assert told in message


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"target": {"rows": [1, 8, 4], "seconds": [1, 2, 3]}}, "let them rise from 1"),
        ({"target": {"rows": [1], "seconds": [-1]}}, "greater than 0"),
        ({"targte": {}}, "unknown key"),
        ({"drafts": {"T4": {"rows": [1], "seconds": [1]}}}, "a draft on T4"),
        ({"target": {"rows": [1], "seconds": [1]}}, "ends at 1 rows, 2 requests fill more"),
    ],
)
def test_a_bad_curve_file_is_one_line(changes, told, capsys, tmp_path):
    """The file, the place in it, and what to correct."""
    words = ["--curve", _curve(tmp_path, **changes), "--concurrent-requests", "2"]
    code, message = failure(capsys, ["plan", "speculate", *BOX, *words])
    assert code == 2
    assert told in message
