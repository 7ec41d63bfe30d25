"""From hashed features to a short dense vector: rare-word weights, then a fixed projection.

Weights are inverse document frequencies over the training prompts; buckets filled by too few
prompts count nothing. The weighted rows are scaled to length one and projected on the leading right
singular vectors of the training matrix. The dense cues, standardised, stand behind the projected part,
and behind them the part of a sentence embedding, where the predictor looks at one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.prediction.embedding_map import EmbeddingMap, fit_embedding_map
from router.prediction.features import NUM_BUCKETS, HashedFeatures
from router.prediction.singular_vectors import right_singular_vectors
from router.prediction.sparse_rows import SparseRows, stack

Float32 = NDArray[np.float32]
_MOST_ROWS = 20_000
"""Rows the singular vectors are computed from, drawn from more."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A fitted map from hashed features to dense vectors; the arrays are never written to."""

    rows: NDArray[np.int32]
    """Bucket to its row in `components`, -1 where it counts nothing. Shape: (NUM_BUCKETS,)."""
    bucket_weights: Float32
    """Inverse document frequency of each row. Shape: (num_kept,)."""
    components: Float32
    """Singular vectors. Shape: (num_kept, num_dimensions)."""
    scale: float
    """Factor of the projected part: its mean square length over the training prompts is 1."""
    cue_means: Float32
    """Shape: (num_cues,)."""
    cue_factors: Float32
    """One over the standard deviation; 0 for a cue that never varies. Shape: (num_cues,)."""
    embedding: EmbeddingMap | None = None
    """Of sentence embeddings; None: they are not looked at."""

    def lexical(self, features: HashedFeatures, num_dimensions: int) -> Float32:
        """Return the projected part of one prompt, zeros for one of unknown words."""
        rows = self.rows[features.indices]
        known = rows >= 0
        rows = rows[known]
        values = features.values[known] * self.bucket_weights[rows]
        length = float(np.sqrt(values @ values))
        if not length:
            return np.zeros(num_dimensions, dtype=np.float32)
        factors = values * np.float32(self.scale / length)
        lexical = factors @ self.components.take(rows, axis=0)[:, :num_dimensions]
        return lexical.astype(np.float32, copy=False)

    def project(
        self,
        features: HashedFeatures,
        *,
        num_dimensions: int,
        cue_weight: float,
        embedding_weight: float = 0.0,
    ) -> Float32:
        """Return a prompt's dense vector.

        Shape: (num_dimensions + num_cues,), and with an embedding's weight its dimensions more.
        """
        cues = self.cues(features) * np.float32(cue_weight)
        parts = (self.lexical(features, num_dimensions), cues)
        if self.embedding is not None and embedding_weight:
            embedded = self.embedding.part(features.embedding) * np.float32(embedding_weight)
            return np.concatenate((*parts, embedded))
        return np.concatenate(parts)

    def cues(self, features: HashedFeatures) -> Float32:
        """Return the standardised cues, within 4 deviations. Shape: (num_cues,)."""
        result: Float32 = np.clip((features.cues - self.cue_means) * self.cue_factors, -4, 4)
        return result

    def truncated(self, num_dimensions: int) -> "Projection":
        """Return the projection with its first dimensions only."""
        components = np.ascontiguousarray(self.components[:, :num_dimensions])
        return replace(self, components=components)


def fit_projection(
    features: Sequence[HashedFeatures],
    *,
    num_dimensions: int,
    embedding_model: str | None = None,
    seed: int = 0,
) -> Projection:
    """Return the projection of at least one training prompt's features; no label is looked at.

    Args:
        features: Of the prompts.
        num_dimensions: Of the projected words.
        embedding_model: Whose embeddings some of the features have; None: nobody's.
        seed: Of the draws.
    """
    if len(features) > _MOST_ROWS:
        drawn = np.random.default_rng(seed).choice(len(features), _MOST_ROWS, replace=False)
        features = [features[int(one)] for one in np.sort(drawn)]
    everything = stack(features, num_columns=NUM_BUCKETS)
    counts = np.bincount(everything.columns, minlength=NUM_BUCKETS)
    kept = np.flatnonzero(counts >= least_prompts(len(features)))
    rows = np.full(NUM_BUCKETS, -1, dtype=np.int32)
    rows[kept] = np.arange(len(kept), dtype=np.int32)
    bucket_weights = np.log((len(features) + 1) / (counts[kept] + 1)).astype(np.float32) + 0.01
    weighted = _weighted(everything, rows, bucket_weights)
    components = right_singular_vectors(weighted, num_dimensions, np.random.default_rng(seed))
    projected = weighted.times(components)
    mean_square = float((projected**2).sum(axis=1).mean()) if projected.size else 0.0
    cues = np.stack([one.cues for one in features])
    deviations = cues.std(axis=0)
    embedded = [one.embedding for one in features if one.embedding is not None]
    return Projection(
        rows,
        bucket_weights,
        components,
        1 / float(np.sqrt(mean_square)) if mean_square else 1.0,
        cues.mean(axis=0),
        np.where(deviations > 1e-6, 1 / np.maximum(deviations, 1e-6), 0).astype(np.float32),
        None
        if embedding_model is None or not embedded
        else fit_embedding_map(
            embedded, model=embedding_model, generator=np.random.default_rng(seed)
        ),
    )


def least_prompts(num_prompts: int) -> int:
    """Return how many prompts must fill a bucket for it to count: 2 of few, up to 5 of many.

    Measured: with 5 in place of 2 out of 5,600 the table is half as large, and picks are better.
    """
    return min(max(2, num_prompts // 1_000), 5, max(num_prompts, 1))


def _weighted(everything: SparseRows, rows: NDArray[np.int32], weights: Float32) -> SparseRows:
    """Return the kept buckets, weighted, each row of length one."""
    columns = rows[everything.columns]
    known = columns >= 0
    row_of = np.repeat(np.arange(everything.num_rows), np.diff(everything.starts))[known]
    columns = columns[known]
    values = everything.values[known] * weights[columns]
    squares = np.bincount(row_of, weights=values**2, minlength=everything.num_rows)
    values = values / np.sqrt(np.maximum(squares, 1e-12))[row_of]
    counts = np.bincount(row_of, minlength=everything.num_rows)
    starts = np.concatenate(([0], np.cumsum(counts)))
    return SparseRows(starts, columns.astype(np.int64), values.astype(np.float32), len(weights))
