"""Count models over token ids: the yardstick the target has to beat.

Shape legend: V vocabulary; n tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TokenIds = NDArray[np.integer]
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CountModels:
    """Next-token laws counted over documents: one without context, one given the token before.

    Both are dense: V² numbers, meant for vocabularies of a few thousand entries.
    """

    unigram_V: Floats
    """Probability of each token, whatever precedes it."""
    bigram_VV: Floats
    """Probability of each token (column) after each token (row)."""

    def unigram_nats(self, ids: TokenIds) -> Floats:
        """Return the surprise of each token after the first, in nats. Shape: (n - 1,)."""
        return -np.log(self.unigram_V[ids[1:]])

    def bigram_nats(self, ids: TokenIds) -> Floats:
        """Return the surprise of each token after the first, in nats. Shape: (n - 1,)."""
        return -np.log(self.bigram_VV[ids[:-1], ids[1:]])


def count_models(documents: Iterable[TokenIds], *, vocabulary_size: int) -> CountModels:
    """Count pairs within documents; no pair crosses from one document to the next.

    The bigram is interpolated Kneser-Ney: c(v, w) less the discount, over c(v), plus the mass the
    discount freed times the share of distinct predecessors that w has. That lower law is smoothed
    in the same way towards the uniform one, and so is the unigram.

    Args:
        documents: Token ids of each document, the end-of-text id first; at least one pair in all.
        vocabulary_size: Ids are below it.

    Raises:
        ValueError: If the documents hold no pair.

    Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling"
    (1998), section 2.7, equation 23, one discount.
    """
    keys_n = [ids[:-1].astype(np.int64) * vocabulary_size + ids[1:] for ids in documents]
    if not any(map(len, keys_n)):
        raise ValueError("documents hold no pair of tokens; pass at least one of two tokens")
    counts = np.bincount(np.concatenate(keys_n), minlength=vocabulary_size**2)
    counts_VV = counts.reshape(vocabulary_size, vocabulary_size)
    uniform_V = np.full(vocabulary_size, 1 / vocabulary_size)
    predecessors_V = np.count_nonzero(counts_VV, axis=0)
    continuation_V = interpolate(predecessors_V, lower=uniform_V)
    return CountModels(
        unigram_V=interpolate(counts_VV.sum(axis=0), lower=uniform_V),
        bigram_VV=interpolate(counts_VV, lower=continuation_V),
    )


def interpolate(counts: Counts, *, lower: Floats) -> Floats:
    """Return discounted relative counts plus the freed mass spread by the law `lower`.

    Args:
        counts: One row of counts a context. Shape: (..., V). One discount serves all rows.
        lower: The less specific law. Shape: (V,).

    Returns:
        Probabilities, summing to one along the last axis; a row without counts is `lower`.
    """
    discount = discount_of(counts)
    totals = counts.sum(axis=-1, keepdims=True)
    freed = discount * np.count_nonzero(counts, axis=-1, keepdims=True)
    divisor = np.maximum(totals, 1)
    freed_fraction = np.where(totals > 0, freed / divisor, 1.0)
    kept: Floats = np.maximum(counts - discount, 0) / divisor
    return kept + freed_fraction * lower


def discount_of(counts: Counts) -> float:
    """Return n1 / (n1 + 2 n2) of the numbers of entries seen once and twice.

    Where nothing was seen once the estimate is void, and one half stands in for it.

    Source: Ney, Essen and Kneser, "On structuring probabilistic dependences in stochastic language
    modelling" (1994), section 4.
    """
    seen_once = np.count_nonzero(counts == 1)
    seen_twice = np.count_nonzero(counts == 2)
    return seen_once / (seen_once + 2 * seen_twice) if seen_once else 0.5
