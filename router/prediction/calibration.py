"""Isotonic calibration: predicted losses become the losses that were observed at that prediction.

Pool adjacent violators, then straight lines between the blocks' means; one monotone map a model,
fitted on predictions for prompts that had no part in the fit.

Source: Barlow et al., Statistical Inference under Order Restrictions (1972).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

NUM_KNOTS = 33
"""Points of every map; enough that a file holds maps of one shape."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One monotone map a model. Both shapes: (num_models, NUM_KNOTS)."""

    predicted: Float32
    """Where the knots stand, rising."""
    observed: Float32
    """What they map to, never falling."""

    def apply(self, losses: Float32) -> Float32:
        """Return calibrated losses. Shape: (num_prompts, num_models)."""
        result = np.empty_like(losses)
        for model in range(losses.shape[1]):
            result[:, model] = np.interp(
                losses[:, model], self.predicted[model], self.observed[model]
            )
        return result


def pool_adjacent_violators(
    values: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the non-decreasing sequence nearest to `values` in weighted squares."""
    means: list[float] = []
    totals: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        means.append(value)
        totals.append(weight)
        lengths.append(1)
        while len(means) > 1 and means[-2] > means[-1]:
            total = totals[-2] + totals[-1]
            means[-2] = (means[-2] * totals[-2] + means[-1] * totals[-1]) / total
            totals[-2] = total
            lengths[-2] += lengths[-1]
            del means[-1], totals[-1], lengths[-1]
    return np.repeat(means, lengths)


def fit_calibration(predicted: Float32, losses: Float32) -> Calibration:
    """Fit one map a model; NaN marks a missing label.

    Neighbouring predictions are averaged into at most `NUM_KNOTS` groups of equal size first, so a
    map rests on many labels everywhere. A model with fewer than 2 * NUM_KNOTS labels keeps its
    predictions.
    """
    num_models = losses.shape[1]
    knots = np.empty((num_models, NUM_KNOTS))
    maps = np.empty((num_models, NUM_KNOTS))
    for model in range(num_models):
        known = ~np.isnan(losses[:, model])
        knots[model], maps[model] = _knots(
            predicted[known, model].astype(np.float64), losses[known, model].astype(np.float64)
        )
    return Calibration(knots.astype(np.float32), maps.astype(np.float32))


def _knots(
    predicted: NDArray[np.float64], observed: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(predicted) < 2 * NUM_KNOTS:
        wide = np.linspace(-1e3, 1e3, NUM_KNOTS)
        return wide, wide
    order = np.argsort(predicted, kind="stable")
    groups = np.array_split(order, NUM_KNOTS)
    sizes = np.array([len(one) for one in groups], dtype=np.float64)
    knots = np.array([predicted[one].mean() for one in groups])
    means = np.array([observed[one].mean() for one in groups])
    # Equal knots would make the map jump; a hair apart is enough for interpolation.
    knots = np.maximum.accumulate(knots + np.arange(NUM_KNOTS) * 1e-7)
    return knots, pool_adjacent_violators(means, sizes)
