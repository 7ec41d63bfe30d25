"""Chooses a predictor's settings on prompts held out inside the training data.

Every candidate predicts each training prompt from folds without it. Two measures decide. The squared
error of the *differences* between models varies little between samples: a prompt that is hard for all
of them moves every prediction alike and decides nothing. The true loss of the picks is what counts, but
is noisy. So: among the candidates whose error is within `TOLERANCE_FRACTION` of the least, the one whose
picks lose least. Embeddings cost every request a call: where a candidate without them is within it, only
such candidates compete.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from router.prediction.labelled import LabelledPrompts, Progress
from router.prediction.neighbours import make_neighbours, nearest, unit_rows, weigh
from router.prediction.predictor import vectors_of
from router.prediction.projection import Projection
from router.prediction.ridge import fit_ridge, shrunk_means
from router.prediction.settings import PredictorSettings

Float32 = NDArray[np.float32]
Integers = NDArray[np.int64]

DIMENSIONS = (64, 96)
CUE_WEIGHTS = (0.1, 0.2)
EMBEDDING_WEIGHTS = (0.0, 0.5, 1.0, 2.0)
"""Where prompts have embeddings."""
RIDGE_PENALTIES = (3.0, 10.0)
NEIGHBOURS = (60, 100, 150, 250)
SHARPNESSES = (3.0, 6.0)
RIDGE_SHARES = (0.0, 0.2, 0.4, 0.6, 1.0)
TOLERANCE_FRACTION = 0.01
MOST_DIMENSIONS = max(DIMENSIONS)
NUM_FOLDS = 5
MOST_SELECTION_PROMPTS = 10_000
"""Prompts the settings are chosen on, drawn from more: the work grows with their square."""

_Space = tuple[int, float, float]
_RidgeKey = tuple[_Space, float]
_NeighbourKey = tuple[_Space, int, float]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The chosen settings, and what they predicted for prompts they had not seen."""

    settings: PredictorSettings
    losses: Float32
    """Uncalibrated. Shape: (num_prompts, num_models); the rows of prompts not looked at are NaN."""


@dataclass(frozen=True, slots=True)
class Split:
    """One fold: prompts to fit on and prompts to predict."""

    fitted: Integers
    held_out: Integers


def split_folds(num_prompts: int, *, num_folds: int, seed: int) -> Iterator[Split]:
    """Yield each fold once; every prompt is held out exactly once."""
    order = np.random.default_rng(seed).permutation(num_prompts)
    fold_of = np.empty(num_prompts, dtype=np.int64)
    fold_of[order] = np.arange(num_prompts) % num_folds
    for fold in range(num_folds):
        yield Split(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold))


def difference_error(predicted: Float32, losses: Float32) -> float:
    """Return the mean squared error of predictions less each prompt's own mean error.

    Prompts with one label say nothing of differences: where no prompt has two, it is the plain mean
    squared error.
    """
    errors = predicted - losses
    known = ~np.isnan(errors)
    counts = known.sum(axis=1)
    filled = np.where(known, errors, 0)
    if (counts >= 2).any():
        means = filled.sum(axis=1) / np.maximum(counts, 1)
        filled = np.where(known & (counts >= 2)[:, None], filled - means[:, None], 0)
        known = known & (counts >= 2)[:, None]
    return float((filled**2).sum() / max(int(known.sum()), 1))


def mean_pick_loss(predicted: Float32, losses: Float32) -> float:
    """Return the mean true loss of the models with the lowest predictions.

    A pick without a label is left out; none at all counts as infinitely bad.
    """
    picked = losses[np.arange(len(losses)), predicted.argmin(axis=1)]
    known = picked[~np.isnan(picked)]
    return float(known.mean()) if len(known) else float("inf")


@dataclass(slots=True)
class _Parts:
    """Held-out predictions of both halves of the blend, filled fold by fold."""

    ridge: dict[_RidgeKey, Float32]
    neighbours: dict[_NeighbourKey, Float32]
    shape: tuple[int, int]

    def put_ridge(self, key: _RidgeKey, rows: Integers, losses: Float32) -> None:
        self.ridge.setdefault(key, np.zeros(self.shape, dtype=np.float32))[rows] = losses

    def put_neighbours(self, key: _NeighbourKey, rows: Integers, losses: Float32) -> None:
        self.neighbours.setdefault(key, np.zeros(self.shape, dtype=np.float32))[rows] = losses

    def blend(self, settings: PredictorSettings) -> Float32:
        """Return the held-out predictions of one candidate."""
        space = settings.space
        by_ridge = self.ridge[space, settings.ridge_penalty]
        by_neighbours = self.neighbours[space, settings.num_neighbours, settings.sharpness]
        share = np.float32(settings.ridge_share)
        return share * by_ridge + (1 - share) * by_neighbours


def select(
    projection: Projection,
    prompts: LabelledPrompts,
    *,
    settings: PredictorSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> HeldOut:
    """Return the best settings, or the given ones, with their held-out predictions.

    Args:
        projection: Fitted on the prompts' features, with `MOST_DIMENSIONS` dimensions or as many as
            `settings` names.
        prompts: At least as many as there are folds.
        settings: The only candidate, where they are given.
        seed: Of the folds.
        progress: Is told how many of the steps are done.
    """
    rows = np.arange(len(prompts))
    if len(rows) > MOST_SELECTION_PROMPTS:
        generator = np.random.default_rng(seed)
        rows = np.sort(generator.choice(rows, MOST_SELECTION_PROMPTS, replace=False))
    sample = prompts.take(rows)
    weights = (0.0,) if projection.embedding is None else EMBEDDING_WEIGHTS
    candidates = [settings] if settings is not None else _candidates(len(sample), weights)
    parts = _predict_held_out(projection, sample, candidates, seed=seed, progress=progress)
    chosen = _winner(candidates, parts, sample.losses)
    held_out = parts.blend(chosen)
    losses = np.full(prompts.losses.shape, np.nan, dtype=np.float32)
    losses[rows] = held_out
    return HeldOut(chosen, losses)


def _candidates(num_prompts: int, embedding_weights: tuple[float, ...]) -> list[PredictorSettings]:
    most = max(num_prompts // 8, 5)
    return [
        PredictorSettings(
            num_dimensions=num_dimensions,
            cue_weight=cue_weight,
            embedding_weight=embedding_weight,
            ridge_penalty=penalty,
            num_neighbours=num_neighbours,
            sharpness=sharpness,
            ridge_share=share,
        )
        for (
            embedding_weight,
            num_dimensions,
            cue_weight,
            penalty,
            num_neighbours,
            sharpness,
            share,
        ) in product(
            embedding_weights,
            DIMENSIONS,
            CUE_WEIGHTS,
            RIDGE_PENALTIES,
            sorted({min(one, most) for one in NEIGHBOURS}),
            SHARPNESSES,
            RIDGE_SHARES,
        )
    ]


def _predict_held_out(
    projection: Projection,
    prompts: LabelledPrompts,
    candidates: list[PredictorSettings],
    *,
    seed: int,
    progress: Progress | None,
) -> _Parts:
    """Fit both halves of every candidate on each fold, sharing what candidates have in common."""
    parts = _Parts({}, {}, (prompts.losses.shape[0], prompts.losses.shape[1]))
    spaces = sorted({one.space for one in candidates})
    splits = list(split_folds(len(prompts), num_folds=NUM_FOLDS, seed=seed))
    for step, (space, split) in enumerate(product(spaces, splits)):
        members = [one for one in candidates if one.space == space]
        if step % NUM_FOLDS == 0:
            vectors = vectors_of(projection, prompts.features, members[0])
        _fit_ridges(parts, vectors, prompts.losses, split, members)
        _weigh_neighbours(parts, vectors, prompts.losses, split, members)
        if progress is not None:
            progress(step + 1, len(spaces) * NUM_FOLDS)
    return parts


def _fit_ridges(
    parts: _Parts,
    vectors: Float32,
    losses: Float32,
    split: Split,
    members: list[PredictorSettings],
) -> None:
    for key in {(one.space, one.ridge_penalty) for one in members}:
        ridge = fit_ridge(vectors[split.fitted], losses[split.fitted], penalty=key[1])
        parts.put_ridge(key, split.held_out, ridge.predict(vectors[split.held_out]))


def _weigh_neighbours(
    parts: _Parts,
    vectors: Float32,
    losses: Float32,
    split: Split,
    members: list[PredictorSettings],
) -> None:
    most = max(one.num_neighbours for one in members)
    fitted = losses[split.fitted]
    table = make_neighbours(vectors[split.fitted], fitted, shrunk_means(fitted))
    similarities = unit_rows(vectors[split.held_out]) @ table.units.T
    taken = nearest(similarities, most)
    near = np.take_along_axis(similarities, taken, axis=1)
    order = np.argsort(-near, axis=1)
    taken = np.take_along_axis(taken, order, axis=1)
    weights = np.maximum(np.take_along_axis(near, order, axis=1), 1e-3)
    near_losses, labelled = table.losses[taken], table.labelled[taken]
    for key in {(one.space, one.num_neighbours, one.sharpness) for one in members}:
        num_neighbours, sharpness = key[1], np.float32(key[2])
        predicted, _ = weigh(
            near_losses[:, :num_neighbours],
            labelled[:, :num_neighbours],
            weights[:, :num_neighbours] ** sharpness,
            table.means,
        )
        parts.put_neighbours(key, split.held_out, predicted)


def _winner(
    candidates: list[PredictorSettings], parts: _Parts, losses: Float32
) -> PredictorSettings:
    if len(candidates) == 1:
        return candidates[0]
    scored = [(one, difference_error(parts.blend(one), losses)) for one in candidates]
    bound = _bound(scored)
    plain = [(one, error) for one, error in scored if not one.embedding_weight]
    if any(error <= bound for _, error in plain):
        scored, bound = plain, _bound(plain)
    near = [one for one, error in scored if error <= bound]
    return min(near, key=lambda one: mean_pick_loss(parts.blend(one), losses))


def _bound(scored: list[tuple[PredictorSettings, float]]) -> float:
    return min(error for _, error in scored) * (1 + TOLERANCE_FRACTION)
