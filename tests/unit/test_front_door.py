import subprocess
import sys

import pytest

import motley


def test_help_lists_every_subcommand(capsys):
    """`motley --help` prints a line for each subcommand and ends well."""
    assert motley.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in motley.SUBCOMMANDS)


def test_version_is_printed(capsys):
    """`motley --version` names the distribution."""
    assert motley.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("motley 0.")


@pytest.mark.parametrize("subcommand", motley.SUBCOMMANDS)
def test_each_subcommand_has_help(subcommand, capsys):
    """`motley SUB --help` explains itself with exit code 0."""
    assert motley.main([subcommand, "--help"]) == 0
    assert f"motley {subcommand}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["paln"], "unknown subcommand 'paln'"),
        (["plan", "fleet", "--nope"], "No such option"),
        (["plan", "nope"], "No such command 'nope'; use one of: fleet"),
        (["plan", "fleet"], "Missing argument 'FILE'; see `motley plan fleet --help`"),
        (["plan", "fleet", "x", "--gap-fractio", "1"], "Did you mean '--gap-fraction'?"),
        (["finetune", "nope"], "No such command 'nope'; use one of: run, local, publish"),
        (["serve", "m", "--port", "x"], "'x' is not a valid integer range; see `motley serve"),
        (["plan", "fleet", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["route", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["finetune", "run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["serve", "./nowhere", "--port", "0"], "'./nowhere': no such model folder"),
        (["serve", "m", "--draft", "/nowhere/d"], "--draft '/nowhere/d': no such model folder"),
        (["serve", "m", "--adapter", "a=/nowhere"], "/nowhere/adapter_config.json: no such file"),
        (["serve", "m", "--draft-tokens", "4"], "--draft-tokens does nothing without what drafts"),
        (["serve", "m", "--draft-tree", "4x8"], "--draft-tree does nothing without what drafts"),
        (["serve", "m", "--pre-draft", "on"], "--pre-draft does nothing without what drafts"),
        (["serve", "m", "--draft-device", "cpu"], "add --draft MODEL or --drafter ngram"),
        (["serve", "m", "--drafter", "ngram", "--draft-device", "cpu"], "ngram has none; drop it"),
        (["serve", "m", "--engine", "vllm", "--draft-tokens", "4"], "--draft-tokens does nothing"),
        (["serve", "m", "--dtype", "int3"], "int3"),
        (["serve", "m", "--adapter", "x"], "NAME=FOLDER"),
        (["serve", "m", "--kv-memory", "much"], "much"),
        (["demo", "--output", "/proc/nope"], "/proc/nope"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(arguments, words, capsys):
    """What is wrong, the value, what to do; never a traceback."""
    assert motley.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("motley: error: ")
    assert words in error


def test_a_broken_pipe_is_no_failure():
    """`motley --help | head -0` leaves no traceback."""
    command = f"{sys.executable} -m motley plan --help | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    """Ctrl-C inside a command ends with one line and exit code 130, not with success."""

    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.documents.read_text", interrupt)
    assert motley.main(["route", "any.yaml"]) == 130
    assert capsys.readouterr().err.strip().endswith("motley: error: interrupted")


def test_a_device_is_never_replaced(capsys):
    """An output that is no regular file is refused before anything is written."""
    words = ["plan", "fleet", "configs/fleet/melange-example.yaml", "--output", "/dev/zero"]
    assert motley.main(words) == 2
    assert "no regular file" in capsys.readouterr().err
