"""Cross-validation of the whole predictor: every setting is chosen inside the training folds.

For each fold the predictor is fitted on the others; its held-out predictions there choose the weight of
the price (`frontier.parity_weight`); the fold's prompts are then predicted once. The best single model
is the training folds' best. Nothing that is reported was picked on the prompts it is reported for.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from router.errors import TrainingDataError
from router.prediction.frontier import Point, Standing, parity_weight, picks_at, sweep
from router.prediction.labelled import LabelledPrompts, Progress
from router.prediction.metrics import (
    Array,
    Interval,
    Picks,
    PickShares,
    calibration_error,
    gap_closed,
    paired_gain,
    pick_shares,
    scores_of,
)
from router.prediction.selection import split_folds
from router.prediction.training import LEAST_PROMPTS, fit_held_out

Fitter = Callable[[LabelledPrompts, Array], tuple["FoldFit", "Predict"]]
"""Fits to training prompts, with their costs in dollars."""
Predict = Callable[[LabelledPrompts], tuple[Array, Array]]
"""Returns losses and standard errors for other prompts."""


@dataclass(frozen=True, slots=True)
class FoldFit:
    """What a method says of its own training prompts."""

    losses: Array
    """Held-out predictions. Shape: (num_prompts, num_models)."""
    standard_errors: Array
    """Same shape."""
    margin: float
    """As of `objective.choose`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What held-out prompts got, fold by fold put together; rows in the prompts' order."""

    scores: Array
    """True scores. Shape: (num_prompts, num_models)."""
    costs_usd: Array
    """Same shape."""
    predicted: Array
    """Predicted losses, same shape."""
    picks: Picks
    """For quality alone. Shape: (num_prompts,)."""
    parity_picks: Picks
    """With the weight of the price that the training folds chose. Shape: (num_prompts,)."""
    single: Picks
    """The training folds' best single model. Shape: (num_prompts,)."""
    points: tuple[Point, ...]
    """The sweep of the price's weight, averaged over the folds."""


@dataclass(frozen=True, slots=True)
class Quality:
    """The figures of one cross-validation."""

    accuracy: float
    gap_closed: float
    gain: Interval
    """Of the mean score over the best single model's."""
    shares: PickShares
    calibration_error: float
    parity_accuracy: float
    """Mean score at the weight chosen for equal quality."""
    parity_cost_fraction: float
    """Its cost as a share of the best single model's."""
    cost_fraction: float
    """The cost of the picks for quality alone, as that share."""


def complete(prompts: LabelledPrompts) -> LabelledPrompts:
    """Return the prompts that have a label of every model.

    Raises:
        TrainingDataError: If they are too few to be split.
    """
    chosen = np.flatnonzero(~np.isnan(prompts.losses).any(axis=1))
    if len(chosen) < 2 * LEAST_PROMPTS:
        raise TrainingDataError(
            f"only {len(chosen)} prompts have a score of every model; evaluation needs at "
            f"least {2 * LEAST_PROMPTS}: answer some prompts with each model and grade them"
        )
    return prompts.take(chosen)


def cross_validate(
    prompts: LabelledPrompts,
    costs: Array,
    *,
    fitter: Fitter,
    num_folds: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Outcome:
    """Predict every prompt from the folds without it.

    Args:
        prompts: With a label of every model.
        costs: Dollars of each model's answer. Shape: (num_prompts, num_models).
        fitter: The method.
        num_folds: At least 2.
        seed: Of the folds.
        progress: Is told how many folds are done.
    """
    scores = 1 - prompts.losses.astype(np.float64)
    predicted = np.zeros_like(scores)
    picks, parity, single = (np.zeros(len(prompts), dtype=np.int64) for _ in range(3))
    sweeps: list[list[Point]] = []
    for number, split in enumerate(split_folds(len(prompts), num_folds=num_folds, seed=seed)):
        training, held_out = split.fitted, split.held_out
        fit, predict = fitter(prompts.take(training), costs[training])
        best = int(scores[training].mean(axis=0).argmax())
        known = Standing(fit.losses, fit.standard_errors, costs[training], best, fit.margin)
        weight = parity_weight(known, scores[training])
        losses, errors = predict(prompts.take(held_out))
        standing = Standing(losses, errors, costs[held_out], best, fit.margin)
        predicted[held_out] = losses
        picks[held_out] = picks_at(standing, 0.0)
        parity[held_out] = picks_at(standing, weight)
        single[held_out] = best
        sweeps.append(sweep(standing, scores[held_out]))
        if progress is not None:
            progress(number + 1, num_folds)
    return Outcome(scores, costs, predicted, picks, parity, single, _averaged(sweeps))


def quality_of(outcome: Outcome, *, seed: int = 0) -> Quality:
    """Return the figures; the seed is that of the bootstrap."""
    scores, costs = outcome.scores, outcome.costs_usd
    picked, single = scores_of(scores, outcome.picks), scores_of(scores, outcome.single)
    single_cost = float(scores_of(costs, outcome.single).mean()) or 1.0
    return Quality(
        accuracy=float(picked.mean()),
        gap_closed=gap_closed(picked, single, scores.max(axis=1)),
        gain=paired_gain(picked, single, seed=seed),
        shares=pick_shares(scores, outcome.picks),
        calibration_error=calibration_error(1 - outcome.predicted, scores),
        parity_accuracy=float(scores_of(scores, outcome.parity_picks).mean()),
        parity_cost_fraction=float(scores_of(costs, outcome.parity_picks).mean()) / single_cost,
        cost_fraction=float(scores_of(costs, outcome.picks).mean()) / single_cost,
    )


def fit_ours(prompts: LabelledPrompts, costs: Array) -> tuple[FoldFit, Predict]:
    """Fit the predictor as `motley route train` does; the `Fitter` of our own method."""
    fitted = fit_held_out(prompts)
    predictor = fitted.predictor
    _, errors = predictor.predict_many(prompts.features)

    def predict(others: LabelledPrompts) -> tuple[Array, Array]:
        losses, standard_errors = predictor.predict_many(others.features)
        return losses.astype(np.float64), standard_errors.astype(np.float64)

    # Prompts beyond those the settings were chosen on have no held-out prediction.
    losses = np.where(np.isnan(fitted.losses), predictor.mean_losses, fitted.losses)
    fit = FoldFit(
        losses.astype(np.float64),
        errors.astype(np.float64),
        predictor.settings.abstain_margin,
    )
    return fit, predict


def _averaged(sweeps: list[list[Point]]) -> tuple[Point, ...]:
    return tuple(
        Point(
            points[0].weight,
            float(np.mean([one.cost_usd for one in points])),
            float(np.mean([one.quality for one in points])),
            float(np.mean([one.top_tier_fraction for one in points])),
        )
        for points in zip(*sweeps, strict=True)
    )
