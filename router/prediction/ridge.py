"""Ridge regression of every model's loss on dense vectors, with labels that may be missing.

Models labelled on the same prompts share one Gram matrix. The penalty pulls each model toward its mean
loss, the harder the fewer labels it has, and that mean is pulled toward the mean over all models.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

MEAN_PRIOR_LABELS = 10.0
"""Labels that the mean over all models counts for in each model's mean."""


@dataclass(frozen=True, slots=True)
class Ridge:
    """Fitted weights; models are in the columns' order of the losses."""

    center: Float32
    """Mean vector of the training prompts. Shape: (num_features,)."""
    weights: Float32
    """Shape: (num_features, num_models)."""
    means: Float32
    """Each model's shrunk mean loss. Shape: (num_models,)."""
    inverses: Float32
    """Inverse penalised Gram of each group. Shape: (num_groups, num_features, num_features)."""
    groups: NDArray[np.int32]
    """Which inverse belongs to a model. Shape: (num_models,)."""

    def predict(self, vectors: Float32) -> Float32:
        """Return losses. Shape: (num_prompts, num_models)."""
        losses = (vectors - self.center) @ self.weights + self.means
        return losses.astype(np.float32, copy=False)

    def leverages(self, vectors: Float32) -> Float32:
        """Return how far each prediction rests on few labels: its variance over the residuals'.

        Shape: (num_prompts, num_models).
        """
        centered = vectors - self.center
        by_group = [((centered @ inverse) * centered).sum(axis=1) for inverse in self.inverses]
        return np.stack(by_group, axis=1)[:, self.groups]


def shrunk_means(losses: Float32) -> Float32:
    """Return each model's mean loss, pulled toward the mean over all; NaN marks a missing label."""
    known = ~np.isnan(losses)
    counts = known.sum(axis=0)
    sums = np.where(known, losses, 0).sum(axis=0, dtype=np.float64)
    overall = sums.sum() / max(int(counts.sum()), 1)
    means = (sums + MEAN_PRIOR_LABELS * overall) / (counts + MEAN_PRIOR_LABELS)
    return np.asarray(means, dtype=np.float32)


def fit_ridge(vectors: Float32, losses: Float32, *, penalty: float) -> Ridge:
    """Fit all models.

    Args:
        vectors: Shape: (num_prompts, num_features).
        losses: NaN where a model has no label. Shape: (num_prompts, num_models).
        penalty: Added to the Gram matrix's diagonal, above 0.
    """
    known = ~np.isnan(losses)
    masks, groups = np.unique(known, axis=1, return_inverse=True)
    center = vectors.mean(axis=0)
    centered = (vectors - center).astype(np.float64)
    means = shrunk_means(losses)
    num_features = vectors.shape[1]
    weights = np.zeros((num_features, losses.shape[1]))
    inverses = np.zeros((masks.shape[1], num_features, num_features))
    for number in range(masks.shape[1]):
        members = np.flatnonzero(groups.reshape(-1) == number)
        chosen = centered[masks[:, number]]
        gram = chosen.T @ chosen + penalty * np.eye(num_features)
        inverses[number] = np.linalg.inv(gram)
        targets = losses[masks[:, number]][:, members] - means[members]
        weights[:, members] = inverses[number] @ (chosen.T @ targets)
    return Ridge(
        center.astype(np.float32),
        weights.astype(np.float32),
        means,
        inverses.astype(np.float32),
        groups.reshape(-1).astype(np.int32),
    )
