"""How good picks are: accuracy, optimal picks, the gap closed, calibration, paired bootstrap.

Scores are 1 minus the losses, complete (no model missing). Shapes: scores and predictions are
(num_prompts, num_models); picks are positions of models, (num_prompts,).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Picks = NDArray[np.int64]

NUM_BINS = 15
"""Bins of equal mass of the calibration error."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the interval of its paired bootstrap."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PickShares:
    """How often a pick was a best one; the three groups of prompts differ."""

    strict_fraction: float
    """Among prompts with one best model: the pick is that one."""
    unique_fraction: float
    """Share of prompts with one best model."""
    tie_aware_fraction: float
    """Among prompts that some model answers: the pick is as good as the best."""
    failed_fraction: float
    """Share of prompts that every model fails, left out of the tie-aware share."""


def scores_of(scores: Array, picks: Picks) -> Array:
    """Return each prompt's score of its pick. Shape: (num_prompts,)."""
    result: Array = scores[np.arange(len(scores)), picks]
    return result


def pick_shares(scores: Array, picks: Picks) -> PickShares:
    """Return the strict and the tie-aware share of optimal picks."""
    best = scores.max(axis=1)
    is_best = scores_of(scores, picks) >= best
    unique = (scores >= best[:, None]).sum(axis=1) == 1
    answered = best > 0
    return PickShares(
        _mean(is_best[unique]),
        _mean(unique),
        _mean(is_best[answered]),
        _mean(~answered),
    )


def gap_closed(picked: Array, single: Array, oracle: Array) -> float:
    """Return (router - best single) / (oracle - best single) of mean scores; may be negative.

    0 where the oracle is no better than the best single model.
    """
    gap = float(oracle.mean() - single.mean())
    return float(picked.mean() - single.mean()) / gap if gap > 0 else 0.0


def calibration_error(predicted: Array, scores: Array) -> float:
    """Return the expected calibration error: equal-mass bins, per model, then averaged."""
    errors = []
    for model in range(scores.shape[1]):
        order = np.argsort(predicted[:, model], kind="stable")
        errors.append(
            sum(
                len(one) * abs(predicted[one, model].mean() - scores[one, model].mean())
                for one in np.array_split(order, NUM_BINS)
                if len(one)
            )
            / len(order)
        )
    return float(np.mean(errors))


def paired_gain(picked: Array, single: Array, *, seed: int, num_draws: int = 2_000) -> Interval:
    """Return the mean gain of the picks over the best single model, with its 95 % interval.

    Prompts are drawn with replacement, both scores of a prompt together.
    """
    gains = picked - single
    generator = np.random.default_rng(seed)
    means = [gains[generator.integers(0, len(gains), len(gains))].mean() for _ in range(num_draws)]
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(gains.mean()), float(low), float(high))


def standard_error(gains: Array) -> float:
    """Return the standard error of a mean of paired differences."""
    return float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else 0.0


def _mean(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else 0.0
