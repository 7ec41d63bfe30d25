"""Isotonic calibration: predicted losses become the losses that were observed at that prediction.

Pool adjacent violators, then straight lines between the blocks' centres, so that no two predictions
become one and the order of a model's prompts stays; beyond the ends the slope is one. One map a model,
fitted on predictions for prompts that had no part in the fit.

Source: Barlow et al., Statistical Inference under Order Restrictions (1972).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

NUM_KNOTS = 10
"""Most points of a map; the rest of its row repeats the last."""
LEAST_LABELS = 160
"""A model with fewer keeps its predictions."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One monotone map a model. Both shapes: (num_models, NUM_KNOTS)."""

    predicted: Float32
    """Where the knots stand, rising."""
    observed: Float32
    """What they map to, never falling."""

    def apply(self, losses: Float32) -> Float32:
        """Return calibrated losses. Shape: (num_prompts, num_models)."""
        knots, maps = self.predicted, self.observed
        within = np.clip(losses, knots[:, 0], knots[:, -1])
        # The last knot that is not above the loss; a row's repeated last knots are passed over.
        left = (within[:, :, None] >= knots).sum(axis=2) - 1
        right = np.minimum(left + 1, knots.shape[1] - 1)
        models = np.arange(len(knots))
        width = knots[models, right] - knots[models, left]
        share = (within - knots[models, left]) / np.where(width > 0, width, 1)
        risen = maps[models, left] + share * (maps[models, right] - maps[models, left])
        result: Float32 = (risen + (losses - within)).astype(np.float32, copy=False)
        return result


def pool_adjacent_violators(
    knots: Float64, values: Float64, weights: Float64
) -> tuple[Float64, Float64]:
    """Return the centres of the blocks of the isotonic regression, and their means, both rising.

    Args:
        knots: Rising positions.
        values: What was observed there.
        weights: Of each position, above 0.
    """
    blocks: list[tuple[float, float, float]] = []
    for knot, value, weight in zip(knots, values, weights, strict=True):
        block = (float(knot), float(value), float(weight))
        while blocks and blocks[-1][1] >= block[1]:
            before = blocks.pop()
            total = before[2] + block[2]
            block = (
                (before[0] * before[2] + block[0] * block[2]) / total,
                (before[1] * before[2] + block[1] * block[2]) / total,
                total,
            )
        blocks.append(block)
    return np.array([one[0] for one in blocks]), np.array([one[1] for one in blocks])


def fit_calibration(predicted: Float32, losses: Float32) -> Calibration:
    """Fit one map a model; NaN marks a missing label or prediction.

    Neighbouring predictions are averaged into `NUM_KNOTS` groups of equal size first, so a map rests
    on many labels everywhere.
    """
    num_models = losses.shape[1]
    knots = np.empty((num_models, NUM_KNOTS))
    maps = np.empty((num_models, NUM_KNOTS))
    for model in range(num_models):
        known = ~(np.isnan(losses[:, model]) | np.isnan(predicted[:, model]))
        knots[model], maps[model] = _map(
            predicted[known, model].astype(np.float64), losses[known, model].astype(np.float64)
        )
    return Calibration(knots.astype(np.float32), maps.astype(np.float32))


def _map(predicted: Float64, observed: Float64) -> tuple[Float64, Float64]:
    if len(predicted) < LEAST_LABELS:
        same = np.zeros(NUM_KNOTS)
        return same, same
    groups = np.array_split(np.argsort(predicted, kind="stable"), NUM_KNOTS)
    knots, means = pool_adjacent_violators(
        np.array([predicted[one].mean() for one in groups]),
        np.array([observed[one].mean() for one in groups]),
        np.array([len(one) for one in groups], dtype=np.float64),
    )
    missing = (0, NUM_KNOTS - len(knots))
    return np.pad(knots, missing, mode="edge"), np.pad(means, missing, mode="edge")
