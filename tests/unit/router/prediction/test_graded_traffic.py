import json
from pathlib import Path

import numpy as np
import pytest
from graded_prompts import graded_prompts

from router.cli import run
from router.errors import TrainingDataError
from router.features_log import FeaturesLine, FeaturesLog
from router.prediction.features import hash_text
from router.prediction.graded_traffic import read_graded_traffic
from router.prediction.predictor import Predictor


def _write_log(path: Path, texts: list[str]) -> None:
    log = FeaturesLog(path, most_bytes=10**9)
    for number, text in enumerate(texts):
        log.write(
            FeaturesLine(
                request_id=f"r{number}",
                arrival_unix_seconds=float(number),
                asked="auto",
                models=("coder", "generalist", "poet"),
                predicted=None,
                pick="coder",
                reason="abstained",
                propensity=1.0,
                goals={},
                prompt_bytes=len(text),
                features=hash_text(text),
            )
        )
    log.close()


def _grade(request_id: str, model: str, score: float) -> str:
    return json.dumps({"request_id": request_id, "model": model, "score": score}) + "\n"


def test_graded_requests_are_joined_by_their_ids(tmp_path: Path) -> None:
    """Only logged requests with a grade count; a model without a grade has no label."""
    _write_log(tmp_path / "log", ["moon river", "python list", "never graded"])
    grades = [_grade("r1", "coder", 0.75), _grade("r0", "poet", 1.0), _grade("gone", "poet", 1.0)]
    (tmp_path / "grades").write_text("".join(grades))
    prompts = read_graded_traffic(tmp_path / "log", tmp_path / "grades")
    assert prompts.models == ("coder", "poet")
    np.testing.assert_array_equal(prompts.losses, [[np.nan, 0.0], [0.25, np.nan]])
    assert np.array_equal(prompts.features[0].indices, hash_text("moon river").indices)
    assert prompts.prompt_tokens.tolist() == [3, 3]


def test_grades_of_another_router_are_refused(tmp_path: Path) -> None:
    """No id in common is a mix-up of files, told in one line."""
    _write_log(tmp_path / "log", ["moon"])
    (tmp_path / "grades").write_text(_grade("x", "poet", 1.0))
    with pytest.raises(TrainingDataError, match="none of its 1 request ids"):
        read_graded_traffic(tmp_path / "log", tmp_path / "grades")


def test_training_from_traffic_learns_the_kinds(tmp_path: Path) -> None:
    """Hashed features and one grade a request are enough to tell who knows what."""
    records = graded_prompts(300)
    _write_log(tmp_path / "log", [str(record["question"]) for record in records])
    generator = np.random.default_rng(0)
    lines = []
    for number, record in enumerate(records):
        scores: dict[str, float] = record["scores"]  # type: ignore[assignment]
        model = str(generator.choice(sorted(scores)))
        lines.append(_grade(f"r{number}", model, scores[model]))
    (tmp_path / "grades").write_text("".join(lines))
    words = ["train", "--data", f"{tmp_path}/log", "--grades", f"{tmp_path}/grades"]
    run([*words, "--output", f"{tmp_path}/predictor.npz"])
    prediction = Predictor.load(tmp_path / "predictor.npz").predict("moon river poem verse night")
    assert prediction.models[int(prediction.losses.argmin())] == "poet"
