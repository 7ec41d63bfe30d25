"""Fits a predictor to labelled prompts; every setting is chosen on prompts held out inside them."""

import logging
from dataclasses import replace

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
LEAST_PROMPTS = 20
"""Fewer cannot be split into folds that say anything."""
MOST_NEIGHBOUR_ROWS = 8_000
"""Training prompts kept as neighbours, drawn from more: they decide the time of a prediction."""


def fit(
    prompts: LabelledPrompts,
    *,
    settings: PredictorSettings | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predictor:
    """Return a predictor fitted on all the prompts.

    Args:
        prompts: Their losses may be missing anywhere, but each model needs some.
        settings: What to fit with; without them, what does best on held-out folds.
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
    projection = fit_projection(prompts.features, num_dimensions=MOST_DIMENSIONS, seed=seed)
    held_out = select(projection, prompts, settings=settings, seed=seed, progress=progress)
    chosen = _shrunk(held_out.settings, num_prompts=len(prompts)) if settings is None else settings
    return _fit_all(prompts, replace(held_out, settings=chosen), projection, seed=seed)


def _shrunk(settings: PredictorSettings, *, num_prompts: int) -> PredictorSettings:
    """Return settings that trust few labels less."""
    if num_prompts >= WANTED_PROMPTS:
        return settings
    return settings.model_copy(
        update={
            "ridge_penalty": settings.ridge_penalty * WANTED_PROMPTS / num_prompts,
            "abstain_margin": max(settings.abstain_margin, 1.0),
        }
    )


def _fit_all(
    prompts: LabelledPrompts, held_out: HeldOut, projection: Projection, *, seed: int
) -> Predictor:
    settings = held_out.settings
    projection = projection.truncated(settings.num_dimensions)
    vectors = vectors_of(projection, prompts.features, settings)
    ridge = fit_ridge(vectors, prompts.losses, penalty=settings.ridge_penalty)
    kept = np.arange(len(prompts))
    if len(kept) > MOST_NEIGHBOUR_ROWS:
        drawn = np.random.default_rng(seed).choice(kept, MOST_NEIGHBOUR_ROWS, replace=False)
        kept = np.sort(drawn)
    calibration = fit_calibration(held_out.losses, prompts.losses)
    calibrated = calibration.apply(held_out.losses) if settings.is_calibrated else held_out.losses
    errors = np.where(np.isnan(prompts.losses), np.nan, calibrated - prompts.losses)
    return Predictor(
        prompts.models,
        settings,
        projection,
        ridge,
        make_neighbours(vectors[kept], prompts.losses[kept], ridge.means),
        calibration,
        np.sqrt(np.nanmean(errors**2, axis=0)).astype(np.float32),
        Provenance(len(prompts), prompts.sha256()),
    )
