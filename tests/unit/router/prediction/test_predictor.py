import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
from graded_prompts import TOPICS, graded_prompts

from router.errors import PredictorFileError, TrainingDataError
from router.prediction.features import hash_text
from router.prediction.labelled import LabelledPrompts, label_features, label_scores
from router.prediction.predictor import Predictor
from router.prediction.predictor_file import write_predictor
from router.prediction.settings import PredictorSettings
from router.prediction.training import ABSTAIN_MARGINS, fit

SETTINGS = PredictorSettings(num_dimensions=8, num_neighbours=30, ridge_share=0.5)


def _labelled(num_prompts: int, *, seed: int = 0) -> LabelledPrompts:
    records = graded_prompts(num_prompts, seed=seed)
    return label_scores(
        [str(record["question"]) for record in records],
        [record["scores"] for record in records],  # type: ignore[misc]
    )


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return fit(_labelled(400), settings=SETTINGS)


def test_each_kind_of_prompt_goes_to_the_model_that_knows_it(predictor: Predictor) -> None:
    """Predictions tell the two kinds apart, on words in an order never seen."""
    assert predictor.models == ("coder", "generalist", "poet")
    for model, words in TOPICS.items():
        prediction = predictor.predict(" ".join(words[::-1]))
        assert prediction.models[int(prediction.losses.argmin())] == model
        assert prediction.qualities.max() > 0.75
        assert (prediction.standard_errors > 0).all()


def test_text_features_and_batches_are_one_code_path(predictor: Predictor) -> None:
    """Training, evaluation and the live router get the same numbers for one prompt."""
    text = "write a poem about python"
    alone = predictor.predict(text)
    from_features = predictor.predict_features(hash_text(text))
    batch, _ = predictor.predict_many([hash_text("moon"), hash_text(text)])
    assert np.array_equal(alone.losses, from_features.losses)
    np.testing.assert_allclose(alone.losses, batch[1], atol=1e-6)


def test_a_file_predicts_what_its_writer_did(predictor: Predictor, tmp_path: Path) -> None:
    """Every array and setting survives the file, and nothing else is left beside it."""
    path = tmp_path / "predictor.npz"
    write_predictor(predictor, path)
    loaded = Predictor.load(path)
    assert [one.name for one in tmp_path.iterdir()] == ["predictor.npz"]
    assert loaded.provenance == predictor.provenance
    assert loaded.settings == predictor.settings
    one, other = loaded.predict("moon and river"), predictor.predict("moon and river")
    assert np.array_equal(one.losses, other.losses)
    assert np.array_equal(one.standard_errors, other.standard_errors)


def test_a_file_of_another_version_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    """The message names the field, its value and what to do."""
    path = tmp_path / "predictor.npz"
    write_predictor(predictor, path)
    with np.load(path) as file:
        arrays = dict(file)
    header = arrays["header"].tobytes().replace(b'"schema_version":1', b'"schema_version":9')
    arrays["header"] = np.frombuffer(header, dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(PredictorFileError, match=r"schema_version.*9.*train it again"):
        Predictor.load(path)


def test_a_file_whose_arrays_do_not_fit_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    """Wrong shapes and pointers are found on reading, not while a client waits."""
    path = tmp_path / "predictor.npz"
    for name, array in (
        ("ridge_means", np.zeros(2, dtype=np.float32)),
        ("ridge_groups", np.full(3, 7, dtype=np.int32)),
        ("cue_means", np.full(15, np.nan, dtype=np.float32)),
    ):
        write_predictor(predictor, path)
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **{**arrays, name: array})
        with pytest.raises(PredictorFileError, match=name):
            Predictor.load(path)


@pytest.mark.parametrize("content", [b"", b"not a predictor", b"PK\x03\x04 cut off"])
def test_what_is_no_predictor_is_refused(content: bytes, tmp_path: Path) -> None:
    """Any other file ends in one clear line."""
    path = tmp_path / "predictor.npz"
    path.write_bytes(content)
    with pytest.raises(PredictorFileError, match="route train"):
        Predictor.load(path)
    with pytest.raises(PredictorFileError, match="route train"):
        Predictor.load(tmp_path / "missing.npz")


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    """A file that needs pickle is refused, not executed."""
    path = tmp_path / "predictor.npz"
    np.savez(path, header=np.array([{"a": 1}], dtype=object))
    with pytest.raises(PredictorFileError, match="no predictor"):
        Predictor.load(path)


def test_too_few_prompts_are_refused_and_few_are_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Below 20 nothing is fitted; below 2,000 it is, with a warning and a firmer hand."""
    with pytest.raises(TrainingDataError, match="19 labelled prompts"):
        fit(_labelled(19))
    with caplog.at_level(logging.WARNING):
        few = fit(_labelled(60))
    assert "num_prompts=60" in caplog.text
    assert few.settings.abstain_margin == max(ABSTAIN_MARGINS)
    assert few.settings.ridge_penalty >= 3 * 2_000 / 60


def test_one_grade_a_prompt_is_enough(predictor: Predictor) -> None:
    """Graded traffic labels only the model that answered; the others are missing."""
    whole = _labelled(600, seed=3)
    generator = np.random.default_rng(0)
    kept = generator.integers(0, 3, len(whole))
    losses = [
        {whole.models[model]: float(whole.losses[row, model])} for row, model in enumerate(kept)
    ]
    sparse = label_features(whole.features, losses, prompt_bytes=[40] * len(whole))
    fitted = fit(sparse, settings=SETTINGS)
    for model, words in TOPICS.items():
        prediction = fitted.predict(" ".join(words))
        assert prediction.models[int(prediction.losses.argmin())] == model


def test_an_unlabelled_model_gets_the_mean_of_the_others() -> None:
    """A new model with one label starts near the overall mean, with a wide error."""
    whole = _labelled(300)
    losses = np.hstack((whole.losses, np.full((300, 1), np.nan, dtype=np.float32)))
    losses[0, 3] = 0.0
    fresh = dataclasses.replace(whole, models=(*whole.models, "newcomer"), losses=losses)
    fitted = fit(fresh, settings=SETTINGS)
    prediction = fitted.predict("moon river")
    assert abs(float(prediction.losses[3]) - float(np.nanmean(losses))) < 0.1
    assert np.isfinite(prediction.standard_errors).all()


def test_continuous_losses_are_predicted_in_their_own_unit() -> None:
    """Losses need not lie between 0 and 1: nats a token work alike."""
    whole = _labelled(300)
    nats = dataclasses.replace(whole, losses=whole.losses * 2 + 3)
    fitted = fit(nats, settings=SETTINGS)
    prediction = fitted.predict(" ".join(TOPICS["coder"]))
    assert 2.5 < float(prediction.losses.min()) < 3.8
    assert 4 < float(prediction.losses[2]) < 5.5


def test_the_same_data_gives_the_same_predictor() -> None:
    """Folds and draws come from the seed alone."""
    prompts = _labelled(120)
    one, other = fit(prompts), fit(prompts)
    assert one.settings == other.settings
    assert one.provenance == other.provenance
    assert np.array_equal(one.predict("moon").losses, other.predict("moon").losses)
