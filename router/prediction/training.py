"""Fits a predictor to labelled prompts; every setting is chosen on prompts held out inside them."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.errors import TrainingDataError
from router.prediction.calibration import fit_calibration
from router.prediction.labelled import LabelledPrompts, Progress
from router.prediction.neighbours import make_neighbours
from router.prediction.predictor import Predictor, Provenance, vectors_of
from router.prediction.projection import Projection, fit_projection
from router.prediction.ridge import fit_ridge
from router.prediction.selection import MOST_DIMENSIONS, HeldOut, select
from router.prediction.settings import PredictorSettings

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

WANTED_PROMPTS = 2_000
"""Labelled prompts below which `fit` warns, shrinks harder and abstains sooner."""
ABSTAIN_MARGINS = (0.0, 0.25, 0.5)
LEAST_PROMPTS = 20
"""Fewer cannot be split into folds that say anything."""
MOST_NEIGHBOUR_ROWS = 8_000
"""Training prompts kept as neighbours, drawn from more: they decide the time of a prediction."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A predictor with held-out predictions for its own training prompts."""

    predictor: Predictor
    losses: Float32
    """Calibrated; NaN where a prompt was left out. Shape: (num_prompts, num_models)."""


def fit(
    prompts: LabelledPrompts,
    *,
    settings: PredictorSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predictor:
    """Return a predictor fitted on all the prompts; arguments and errors as of `fit_held_out`."""
    return fit_held_out(prompts, settings=settings, seed=seed, progress=progress).predictor


def fit_held_out(
    prompts: LabelledPrompts,
    *,
    settings: PredictorSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Fitted:
    """Return a predictor fitted on all the prompts, and what folds without them predicted.

    Args:
        prompts: Their losses may be missing anywhere, but each model needs some.
        settings: What to fit with; without them, what does best on held-out folds. An embedding's
            weight needs prompts with embeddings.
        seed: Of the folds and of every draw.
        progress: Is told how many of the steps are done.

    Raises:
        TrainingDataError: If there are too few prompts or no models.
    """
    if len(prompts) < LEAST_PROMPTS or not prompts.models:
        raise TrainingDataError(
            f"{len(prompts)} labelled prompts of {len(prompts.models)} models are too few; give at "
            f"least {LEAST_PROMPTS}, better {WANTED_PROMPTS}"
        )
    if len(prompts) < WANTED_PROMPTS:
        logger.warning(
            "few labelled prompts, shrinking harder num_prompts=%d wanted=%d",
            len(prompts),
            WANTED_PROMPTS,
        )
    projection = fit_projection(
        prompts.features,
        num_dimensions=MOST_DIMENSIONS,
        embedding_model=prompts.embedding_model,
        seed=seed,
    )
    held_out = select(projection, prompts, settings=settings, seed=seed, progress=progress)
    if settings is not None:
        return _fit_all(prompts, held_out, projection, seed=seed)
    chosen = _shrunk(held_out.settings, num_prompts=len(prompts))
    fitted = _fit_all(prompts, replace(held_out, settings=chosen), projection, seed=seed)
    if len(prompts) < WANTED_PROMPTS:
        return fitted
    return _with_margin(fitted, prompts)


def _shrunk(settings: PredictorSettings, *, num_prompts: int) -> PredictorSettings:
    """Return settings that trust few labels less."""
    if num_prompts >= WANTED_PROMPTS:
        return settings
    return settings.model_copy(
        update={
            "ridge_penalty": settings.ridge_penalty * WANTED_PROMPTS / num_prompts,
            "abstain_margin": max(ABSTAIN_MARGINS),
        }
    )


def _fit_all(
    prompts: LabelledPrompts, held_out: HeldOut, projection: Projection, *, seed: int
) -> Fitted:
    settings = held_out.settings
    assert projection.embedding is not None or not settings.embedding_weight
    projection = projection.truncated(settings.num_dimensions)
    if not settings.embedding_weight:
        projection = replace(projection, embedding=None)
    vectors = vectors_of(projection, prompts.features, settings)
    ridge = fit_ridge(vectors, prompts.losses, penalty=settings.ridge_penalty)
    kept = np.arange(len(prompts))
    if len(kept) > MOST_NEIGHBOUR_ROWS:
        drawn = np.random.default_rng(seed).choice(kept, MOST_NEIGHBOUR_ROWS, replace=False)
        kept = np.sort(drawn)
    calibration = fit_calibration(held_out.losses, prompts.losses)
    calibrated = calibration.apply(held_out.losses) if settings.is_calibrated else held_out.losses
    errors = np.where(np.isnan(prompts.losses), np.nan, calibrated - prompts.losses)
    predictor = Predictor(
        prompts.models,
        settings,
        projection,
        ridge,
        make_neighbours(vectors[kept], prompts.losses[kept], ridge.means),
        calibration,
        np.sqrt(np.nanmean(errors**2, axis=0)).astype(np.float32),
        Provenance(len(prompts), prompts.sha256()),
    )
    return Fitted(predictor, calibrated)


def _with_margin(fitted: Fitted, prompts: LabelledPrompts) -> Fitted:
    """Set the margin to abstain: the one whose held-out picks lose least, the widest of equals."""
    predictor = fitted.predictor
    known = np.flatnonzero(~np.isnan(fitted.losses).any(axis=1))
    sample = prompts.take(known)
    _, errors = predictor.predict_many(sample.features)
    losses, single = fitted.losses[known], predictor.best_single
    rows, picks = np.arange(len(sample)), losses.argmin(axis=1)
    noise = np.hypot(errors[rows, picks], errors[:, single])
    lead = losses[:, single] - losses[rows, picks]

    def true_loss(margin: float) -> float:
        # Only prompts where both are labelled tell whether abstaining was right.
        gains = sample.losses[:, single] - sample.losses[rows, picks]
        kept = gains[(lead >= margin * noise) & ~np.isnan(gains)]
        return -float(kept.sum())

    margin = min(sorted(ABSTAIN_MARGINS, reverse=True), key=true_loss)
    settings = predictor.settings.model_copy(update={"abstain_margin": margin})
    return replace(fitted, predictor=replace(predictor, settings=settings))
