import json
from pathlib import Path

import pytest
from graded_prompts import graded_prompts

from planner.errors import DocumentError
from router.cli import run
from router.errors import TrainingDataError
from router.prediction.predictor import Predictor

PRICES = {
    "coder": {"input_price": 0.2, "output_price": 0.2, "size": "7B"},
    "poet": {"input_price": 0.9, "output_price": 0.9},
    "generalist": {"input_price": 0.1, "output_price": 0.1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with graded prompts, prices, and the predictor that `train` made of them."""
    folder = tmp_path_factory.mktemp("graded")
    (folder / "data.json").write_text(json.dumps(graded_prompts(150)))
    (folder / "prices.json").write_text(json.dumps(PRICES))
    run(["train", "--data", f"{folder}/data.json", "--output", f"{folder}/predictor.npz"])
    return folder


def test_training_writes_a_predictor_that_knows_the_kinds(folder: Path) -> None:
    """The file is read back and routes each kind to its model."""
    predictor = Predictor.load(folder / "predictor.npz")
    assert predictor.provenance.num_prompts == 150
    prediction = predictor.predict("python function returns sorted list")
    assert prediction.models[int(prediction.losses.argmin())] == "coder"


def test_the_predictor_of_the_working_directory_is_written_and_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a path `train` writes `predictor.npz`, and says so; `explain` reads it."""
    monkeypatch.chdir(folder)
    (folder / "predictor.npz").unlink()
    run(["train", "--data", "data.json"])
    assert "written to predictor.npz" in capsys.readouterr().out
    run(["explain", "moon river poem verse silver song"])
    assert "pick: poet" in capsys.readouterr().out


def test_explaining_shows_words_terms_and_the_pick(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The pick is the model of that kind, its own words speak for it, and the price has a column."""
    run(
        [
            "explain",
            "moon river poem verse silver song",
            "--predictor",
            f"{folder}/predictor.npz",
            "--prices",
            f"{folder}/prices.json",
            "--cheapest",
            "0.05",
        ]
    )
    text = capsys.readouterr().out
    assert "pick: poet (best_predicted)" in text
    assert "cheapest" in text
    loudest = text.split("speaks for it):\n")[1].splitlines()
    assert any(word in "\n".join(loudest) for word in ("moon", "river", "verse", "poem"))


def test_a_heavy_price_sends_every_prompt_to_the_cheapest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weight is the loss one would pay for going from the worst to the best price."""
    words = ["explain", "moon river", "--predictor", f"{folder}/predictor.npz"]
    run([*words, "--prices", f"{folder}/prices.json", "--cheapest", "5"])
    assert "pick: generalist" in capsys.readouterr().out


def test_evaluation_prints_every_figure_and_draws_the_front(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The predictor's row beats the best single model's where kinds can be told apart."""
    run(
        [
            "evaluate",
            "--data",
            f"{folder}/data.json",
            "--prices",
            f"{folder}/prices.json",
            "--folds",
            "2",
            "--plot",
            f"{folder}/front.png",
        ]
    )
    text = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines()}
    for name in ("best single", "random", "oracle", "predictor"):
        assert name in rows
    for head in ("strict", "tie-aware", "gap closed", "AIQ", "ECE", "parity cost"):
        assert head in text
    accuracy = {
        name: float(rows[name].strip().removeprefix(name).split()[0])
        for name in ("best single", "predictor", "oracle")
    }
    assert accuracy["best single"] < accuracy["predictor"] <= accuracy["oracle"]
    assert "95 % interval" in text
    assert "p99" in text
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not valid JSON"),
        ('{"question": "a"}', "the file: Input should be a valid list"),
        ("[]", "holds no prompts"),
        ('[{"question": "a", "scores": {"m": 1.5}}]', "0.scores.m"),
        ('[{"question": "a", "scores": {}}]', "0.scores"),
        ('[{"question": "a", "scores": {"m": NaN}}]', "0.scores.m"),
        ('[{"scores": {"m": 1}}]', "0.question"),
        ('[{"question": "a", "scores": {"m": 1}}]', "1 labelled prompts"),
    ],
)
def test_bad_data_is_one_clear_line(content: str, told: str, tmp_path: Path) -> None:
    """The place, the value and what is wanted; nothing is written."""
    path = tmp_path / "data.json"
    path.write_text(content)
    with pytest.raises(TrainingDataError, match=told) as caught:
        run(["train", "--data", str(path), "--output", f"{tmp_path}/predictor.npz"])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "predictor.npz").exists()


def test_a_model_without_a_price_is_named(folder: Path, tmp_path: Path) -> None:
    """Costs are never made up."""
    (tmp_path / "prices.json").write_text(json.dumps({"coder": PRICES["coder"]}))
    with pytest.raises(TrainingDataError, match="generalist"):
        run(
            [
                "explain",
                "moon",
                "--predictor",
                f"{folder}/predictor.npz",
                "--prices",
                f"{tmp_path}/prices.json",
            ]
        )


def test_a_path_may_be_called_like_a_command(tmp_path: Path) -> None:
    """`./train` is a router's file; `train` alone is the command."""
    with pytest.raises(DocumentError, match="train"):
        run([f"{tmp_path}/train"])
