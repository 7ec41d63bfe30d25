"""Sentence embeddings as a part of the dense vector: chosen where they help, absent elsewhere."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from embedded_prompts import LENGTH, disguised_prompts, embedding_of, questions
from graded_prompts import graded_prompts

from router.errors import PredictorFileError
from router.prediction.embedding_map import MOST_EMBEDDING_DIMENSIONS, fit_embedding_map
from router.prediction.features import hash_text
from router.prediction.labelled import LabelledPrompts, label_scores
from router.prediction.predictor import Predictor
from router.prediction.predictor_file import write_predictor
from router.prediction.settings import PredictorSettings
from router.prediction.training import fit


def _labelled(records: list[dict[str, object]]) -> LabelledPrompts:
    scores = [record["scores"] for record in records]
    return label_scores(questions(records), scores)  # type: ignore[arg-type]


def _embedded(records: list[dict[str, object]]) -> LabelledPrompts:
    embeddings = [embedding_of(text) for text in questions(records)]
    return _labelled(records).with_embeddings(embeddings, model="embedder")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Return a predictor whose settings were chosen with embeddings at hand."""
    return fit(_embedded(disguised_prompts(200)))


def _hits(predictor: Predictor, *, are_embedded: bool) -> float:
    """Return the share of new prompts whose model is predicted to be best."""
    records = disguised_prompts(60, seed=5)
    prompts = _embedded(records) if are_embedded else _labelled(records)
    losses, _ = predictor.predict_many(prompts.features)
    return float((losses.argmin(axis=1) == prompts.losses.argmin(axis=1)).mean())


def test_embeddings_decide_where_words_say_nothing(predictor: Predictor) -> None:
    """Training sees that they help; picks are right with them, and a guess without."""
    assert predictor.settings.embedding_weight > 0
    assert predictor.embedding is not None
    assert (predictor.embedding.model, predictor.embedding.length) == ("embedder", LENGTH)
    assert _hits(predictor, are_embedded=True) > 0.95
    assert _hits(predictor, are_embedded=False) < 0.75
    assert _hits(fit(_labelled(disguised_prompts(200))), are_embedded=True) < 0.75


def test_embeddings_that_say_nothing_are_not_looked_at() -> None:
    """Weight 0 is chosen, and the predictor is the one that words alone would have given."""
    records = graded_prompts(120)
    plain = _labelled(records)
    generator = np.random.default_rng(1)
    noise = [generator.standard_normal(LENGTH).astype(np.float32) for _ in records]
    by_words, by_both = fit(plain), fit(plain.with_embeddings(noise, model="noise"))
    assert by_both.embedding is None
    assert by_both.settings == by_words.settings
    assert "embedding_weight" not in by_both.settings.model_dump()
    assert np.array_equal(by_both.ridge.weights, by_words.ridge.weights)
    assert np.array_equal(by_both.neighbours.units, by_words.neighbours.units)


def test_a_prompt_without_an_embedding_has_zeros(predictor: Predictor) -> None:
    """The rest of its vector stays, and the prediction is a number."""
    settings = predictor.settings
    features = hash_text("moon and river")
    weights = {"num_dimensions": settings.num_dimensions, "cue_weight": settings.cue_weight}
    words = predictor.projection.project(features, **weights)  # type: ignore[arg-type]
    whole = predictor.projection.project(
        features,
        embedding_weight=settings.embedding_weight,
        **weights,  # type: ignore[arg-type]
    )
    assert np.array_equal(whole[: len(words)], words)
    assert not whole[len(words) :].any()
    assert len(whole) == len(words) + LENGTH
    assert np.isfinite(predictor.predict("moon and river").losses).all()


def test_some_prompts_may_lack_one_in_training() -> None:
    """The others are fitted to; a hash of the data tells embeddings apart from none."""
    records = disguised_prompts(100)
    embeddings = [
        embedding_of(text) if row % 3 else None for row, text in enumerate(questions(records))
    ]
    prompts = _labelled(records).with_embeddings(embeddings, model="embedder")
    settings = PredictorSettings(num_dimensions=8, embedding_weight=1.0, num_neighbours=20)
    assert _hits(fit(prompts, settings=settings), are_embedded=True) > 0.9
    assert prompts.sha256() != _labelled(records).sha256()
    assert prompts.take(np.arange(5)).embedding_model == "embedder"


def test_a_map_centres_scales_and_shortens() -> None:
    """Lengths of embeddings do not count; the mean square length of the parts is 1."""
    generator = np.random.default_rng(0)
    embeddings = list(generator.standard_normal((300, 200)).astype(np.float32) + 1)
    fitted = fit_embedding_map(embeddings, model="m", generator=generator)
    parts = np.stack([fitted.part(one) for one in embeddings])
    assert parts.shape == (300, MOST_EMBEDDING_DIMENSIONS)
    assert np.abs(parts.mean(axis=0)).max() < 1e-4
    assert (parts**2).sum(axis=1).mean() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(fitted.part(embeddings[0] * 3), parts[0], atol=1e-5)
    alike = fit_embedding_map([embeddings[0]] * 5, model="m", generator=generator)
    assert not alike.part(embeddings[0]).any()


def test_a_file_keeps_the_map(predictor: Predictor, tmp_path: Path) -> None:
    """Model, length and arrays come back; a file without embeddings has no word of them."""
    path = tmp_path / "predictor.npz"
    write_predictor(predictor, path)
    loaded = Predictor.load(path)
    assert loaded.settings == predictor.settings
    assert loaded.embedding is not None
    assert loaded.embedding.model == "embedder"
    features = _embedded(disguised_prompts(4, seed=9)).features
    assert np.array_equal(loaded.predict_many(features)[0], predictor.predict_many(features)[0])
    write_predictor(fit(_labelled(disguised_prompts(40))), path)
    assert b"embedding" not in path.read_bytes()
    assert Predictor.load(path).embedding is None


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("embedding_center", np.zeros(LENGTH + 1, dtype=np.float32)),
        ("embedding_center", np.full(LENGTH, np.nan, dtype=np.float32)),
        ("embedding_components", np.zeros((LENGTH, LENGTH - 1), dtype=np.float32)),
        ("embedding_components", np.zeros(7, dtype=np.float32)),
        ("embedding_components", None),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    predictor: Predictor, tmp_path: Path, name: str, array: np.ndarray | None
) -> None:
    """Found on reading, with the array's name or that of one that does not go with it."""
    path = tmp_path / "predictor.npz"
    write_predictor(predictor, path)
    with np.load(path) as file:
        arrays = dict(file)
    arrays.pop(name)
    np.savez(path, **arrays, **({} if array is None else {name: array}))
    with pytest.raises(PredictorFileError, match=rf"{name}|ridge_center"):
        Predictor.load(path)


def test_a_weight_needs_a_model(predictor: Predictor, tmp_path: Path) -> None:
    """A file that says one without the other is refused."""
    path = tmp_path / "predictor.npz"
    odd = dataclasses.replace(
        predictor, settings=predictor.settings.model_copy(update={"embedding_weight": 0.0})
    )
    write_predictor(odd, path)
    with pytest.raises(PredictorFileError, match="no weight"):
        Predictor.load(path)
