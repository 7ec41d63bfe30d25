"""`motley plan render` as it is typed."""

import json
from pathlib import Path

import pytest
from fleet_plans import plan_content
from placed_plans import placed_content

import motley

TARGETS = ("kubernetes", "llm-d", "skypilot", "compose", "local")


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    """Return a plan on disk."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_content()))
    return path


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_is_written(target: str, plan_file: Path, tmp_path: Path, capsys) -> None:
    """The command names what it wrote and where to start reading."""
    folder = tmp_path / "out"
    words = ["plan", "render", str(plan_file), "--target", target, "--output", str(folder)]
    assert motley.main(words) == 0
    assert (folder / "README.md").is_file()
    assert "README.md" in capsys.readouterr().out


def test_the_default_folder_is_named_after_the_target(plan_file: Path, monkeypatch) -> None:
    """Without --output the files go below `rendered` in the working directory."""
    monkeypatch.chdir(plan_file.parent)
    assert motley.main(["plan", "render", str(plan_file), "--target", "compose"]) == 0
    assert Path("rendered/compose/compose.yaml").is_file()


def test_images_and_engine_are_choices(plan_file: Path, tmp_path: Path) -> None:
    """Own images take the defaults' place; vLLM can be asked for on CPU hosts too."""
    folder = tmp_path / "out"
    words = ["--engine", "vllm", "--vllm-image", "mine:1", "--motley-image", "ours:2"]
    words += ["--target", "compose", "--output", str(folder)]
    assert motley.main(["plan", "render", str(plan_file), *words]) == 0
    text = (folder / "compose.yaml").read_text()
    assert text.count("image: mine:1") == 5
    assert text.count("image: ours:2") == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"schema_version": 1, "unit": 3},
            "is a fleet plan of schema_version 1, this Motley reads 2; plan again",
        ),
        ({"kind": "training-plan"}, "is no fleet plan (kind 'training-plan')"),
        ({"oracle_shares": True}, "plan again without the oracle form"),
        ({"models": [{"name": "chat"}]}, "models.0.source: is required"),
        ({"weights": "none"}, "weights"),
        ({"cost_usd_per_hour": float("nan")}, "cost_usd_per_hour"),
    ],
)
def test_bad_plans_end_with_code_2_and_no_file(changes, words, tmp_path: Path, capsys) -> None:
    """One line says what is wrong and what to do; nothing is written."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(plan_content() | changes))
    folder = tmp_path / "out"
    command = ["plan", "render", str(path), "--target", "local", "--output", str(folder)]
    assert motley.main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_device_is_named(tmp_path: Path, capsys) -> None:
    """A plan may name a device that neither it nor the catalogue describes."""
    content = plan_content()
    content["replicas"][0]["gpu"] = "L5"
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    command = ["plan", "render", str(path), "--target", "local", "--output", str(tmp_path / "out")]
    assert motley.main(command) == 2
    assert "no device is called L5; near: L4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--target", "nomad"], "'nomad' is not one of"),
        ([], "Missing option '--target'"),
        (["--target", "local", "--engine", "sglang"], "'sglang' is not one of"),
    ],
)
def test_unknown_words_are_refused(words, problem, plan_file: Path, capsys) -> None:
    """Targets and engines are the listed ones."""
    assert motley.main(["plan", "render", str(plan_file), *words]) == 2
    assert problem in capsys.readouterr().err


def test_a_folder_that_is_not_empty_is_left_alone(plan_file: Path, capsys) -> None:
    """It is refused before the plan is read; --force replaces it."""
    folder = plan_file.parent / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    command = ["plan", "render", str(plan_file), "--target", "local", "--output", str(folder)]
    assert motley.main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert motley.main([*command, "--force"]) == 0
    assert not (folder / "mine.txt").exists()


@pytest.mark.parametrize("target", ["megatron", "torchtitan"])
def test_a_placed_training_plan_is_rendered(target: str, tmp_path: Path, capsys) -> None:
    """Of `motley plan training --place`: a script an island, ranks, and where to start reading."""
    path, folder = tmp_path / "training-plan.json", tmp_path / "out"
    path.write_text(json.dumps(placed_content()))
    words = ["plan", "render", str(path), "--target", target, "--output", str(folder)]
    assert motley.main(words) == 0
    assert (folder / "island-0-near.sh").stat().st_mode & 0o111
    assert (folder / "ranks.csv").is_file()
    assert f"for {target} in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "target", "words"),
    [
        (
            plan_content(),
            "megatron",
            "is no training plan (kind 'fleet-plan'); write one with `motley plan training --place",
        ),
        (placed_content(), "compose", "is no fleet plan (kind 'training-plan')"),
        (placed_content() | {"placement": None}, "megatron", "plan again with `--place`"),
        (placed_content(pipeline=2), "torchtitan", "3 stages at pipeline degree 2; plan again"),
        (placed_content() | {"batches": []}, "megatron", "batches: holds 0; give at least 1"),
    ],
)
def test_the_other_kind_of_plan_is_named(content, target, words, tmp_path: Path, capsys) -> None:
    """One line says what the file is and which command writes the right one."""
    path, folder = tmp_path / "plan.json", tmp_path / "out"
    path.write_text(json.dumps(content))
    command = ["plan", "render", str(path), "--target", target, "--output", str(folder)]
    assert motley.main(command) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not folder.exists()


def test_what_is_planned_with_place_is_rendered(tmp_path: Path, capsys) -> None:
    """From lengths on a mixed cluster to a folder, by the two commands."""
    cluster = Path(__file__).parents[3] / "configs" / "training" / "a100-l40s.yaml"
    lengths, plan = tmp_path / "lengths.txt", tmp_path / "plan.json"
    lengths.write_text("\n".join(["1000", "8192", "3000", "2000"] * 8))
    words = ["plan", "training", str(cluster), "--lengths", str(lengths), "--batch-size", "32"]
    words += ["--model", "meta-llama/Llama-3.1-8B-Instruct", "--place", "--output", str(plan)]
    assert motley.main(words) == 0
    assert "placement: tensor" in capsys.readouterr().out
    folder = tmp_path / "out"
    command = ["plan", "render", str(plan), "--target", "megatron", "--output", str(folder)]
    assert motley.main(command) == 0
    assert (folder / "arguments.sh").is_file()


def test_the_help_names_the_file_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """FILE is what another command writes; scripts rely on the codes."""
    assert motley.main(["plan", "render", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "FILE is a plan of `motley plan fleet --output`" in printed
    assert "Exit codes: 0 written, 2 bad input" in printed
