"""Nearest neighbours: the losses on the most similar training prompts, weighted by similarity.

Similarity is the cosine of the dense vectors. A few labels' worth of each model's mean stand among the
neighbours, so that models with no label nearby get their mean.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

PRIOR_LABELS = np.float32(1)
"""Neighbours of similarity 1 that a model's mean counts for."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Training prompts as unit vectors, with their losses."""

    units: Float32
    """Shape: (num_rows, num_features)."""
    losses: Float32
    """0 where there is no label. Shape: (num_rows, num_models)."""
    labelled: Float32
    """1 where there is a label, else 0. Shape: (num_rows, num_models)."""
    means: Float32
    """Each model's mean. Shape: (num_models,)."""

    def predict(
        self, vectors: Float32, *, num_neighbours: int, sharpness: float
    ) -> tuple[Float32, Float32]:
        """Return losses, and the number of equally weighted labels each is worth.

        Args:
            vectors: Shape: (num_prompts, num_features).
            num_neighbours: How many rows are looked at.
            sharpness: A neighbour's weight is its similarity to this power; 0 weights all alike.

        Returns:
            Two arrays of shape (num_prompts, num_models).
        """
        similarities = unit_rows(vectors) @ self.units.T
        taken = nearest(similarities, num_neighbours)
        weights = np.maximum(np.take_along_axis(similarities, taken, axis=1), 1e-3) ** sharpness
        return weigh(
            self.losses[taken], self.labelled[taken], weights.astype(np.float32), self.means
        )


def weigh(
    losses: Float32, labelled: Float32, weights: Float32, means: Float32
) -> tuple[Float32, Float32]:
    """Return the weighted mean losses of given neighbours, and what they are worth in labels.

    Args:
        losses: 0 where there is no label. Shape: (num_prompts, num_neighbours, num_models).
        labelled: 1 where there is a label, else 0. Same shape.
        weights: Shape: (num_prompts, num_neighbours).
        means: What stands in for labels. Shape: (num_models,).

    Returns:
        Two arrays of shape (num_prompts, num_models).
    """
    rows = weights[:, None, :]
    totals = (rows @ labelled)[:, 0] + PRIOR_LABELS
    squares = (rows**2 @ labelled)[:, 0] + PRIOR_LABELS
    return ((rows @ losses)[:, 0] + PRIOR_LABELS * means) / totals, totals**2 / squares


def make_neighbours(vectors: Float32, losses: Float32, means: Float32) -> Neighbours:
    """Return neighbours of training prompts; NaN marks a missing label."""
    labelled = ~np.isnan(losses)
    return Neighbours(
        unit_rows(vectors),
        np.where(labelled, losses, 0).astype(np.float32),
        labelled.astype(np.float32),
        means,
    )


def unit_rows(vectors: Float32) -> Float32:
    """Return the rows scaled to length one; a row of zeros stays."""
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    result: Float32 = vectors / np.maximum(lengths, 1e-9)
    return result


def nearest(similarities: Float32, num_neighbours: int) -> NDArray[np.int64]:
    """Return the columns with the highest similarities of each row, in no order."""
    num_columns = similarities.shape[1]
    if num_neighbours >= num_columns:
        return np.broadcast_to(np.arange(num_columns), similarities.shape)
    split = num_columns - num_neighbours
    return np.argpartition(similarities, split, axis=1)[:, split:]
