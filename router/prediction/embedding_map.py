"""From a prompt's sentence embedding to a short part of its dense vector.

Embeddings are scaled to length one, centred, and projected on the leading principal components of the
training prompts' embeddings, so that a long one costs a decision no more time than a short one. The
part's mean square length over the training prompts is 1, as that of the projected words. A prompt
without an embedding has zeros there: it stands in the middle.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.prediction.neighbours import unit_rows
from router.prediction.singular_vectors import DenseRows, right_singular_vectors

Float32 = NDArray[np.float32]

MOST_EMBEDDING_DIMENSIONS = 64
_LEAST_MEAN_SQUARE = 1e-9
"""Embeddings that differ less than this are all alike."""


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """A fitted map; the arrays are never written to."""

    model: str
    """Whose embeddings these are."""
    center: Float32
    """Mean of the training prompts' embeddings. Shape: (length,)."""
    components: Float32
    """Principal components with the scale. Shape: (length, num_dimensions)."""

    @property
    def length(self) -> int:
        """Of an embedding."""
        return len(self.center)

    @property
    def num_dimensions(self) -> int:
        """Of the part."""
        return int(self.components.shape[1])

    def part(self, embedding: Float32 | None) -> Float32:
        """Return the part of one prompt, zeros without an embedding. Shape: (num_dimensions,)."""
        if embedding is None:
            return np.zeros(self.num_dimensions, dtype=np.float32)
        result: Float32 = (unit_rows(embedding[None])[0] - self.center) @ self.components
        return result.astype(np.float32, copy=False)


def fit_embedding_map(
    embeddings: Sequence[Float32], *, model: str, generator: np.random.Generator
) -> EmbeddingMap:
    """Return the map of at least one training prompt's embeddings; no label is looked at."""
    units = unit_rows(np.stack(embeddings).astype(np.float32, copy=False))
    center = units.mean(axis=0)
    centered = units - center
    num_dimensions = min(MOST_EMBEDDING_DIMENSIONS, units.shape[1])
    components = right_singular_vectors(DenseRows(centered), num_dimensions, generator)
    mean_square = float(((centered @ components) ** 2).sum(axis=1).mean())
    scale = 1 / np.sqrt(mean_square) if mean_square > _LEAST_MEAN_SQUARE else 0.0
    return EmbeddingMap(model, center, components * np.float32(scale))
