"""Sequences laid end to end in one row, and one rank's equal share of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -100
"""Label of a token after which nothing is predicted."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowShare:
    """What one rank of a group computes.

    Attributes:
        token_ids: Of its tokens; padding is token 0. Shape: (share,).
        positions: Of each token in its sequence, from 0. Shape: (share,).
        labels: The token that follows in the same sequence, or `NO_LABEL`. Shape: (share,).
        spans: Where the sequences of the whole row begin, the padding as one more, and the row's
            tokens at last.
    """

    token_ids: Ids
    positions: Ids
    labels: Ids
    spans: tuple[int, ...]


def pack_row(sequences: Sequence[Ids], *, degree: int, member: int) -> RowShare:
    """Return the share of the `member`-th of `degree` ranks.

    The row is padded to a multiple of the degree, and to one token a rank at least; a sequence may
    lie across shares.

    Args:
        sequences: Token ids of each; those without any are left out.
        degree: Ranks that share the row.
        member: Which of them, from 0.
    """
    rows = [row for row in sequences if len(row)]
    lengths = [len(row) for row in rows]
    total = max(degree, math.ceil(sum(lengths) / degree) * degree)
    if padding := total - sum(lengths):
        rows.append(np.zeros(padding, dtype=np.int64))
    spans = (0, *accumulate(len(row) for row in rows))
    token_ids = np.concatenate(rows).astype(np.int64, copy=False)
    positions = np.concatenate([np.arange(len(row), dtype=np.int64) for row in rows])
    labels = np.full(total, NO_LABEL, dtype=np.int64)
    for start, end in pairwise(spans[: len(lengths) + 1]):
        labels[start : end - 1] = token_ids[start + 1 : end]
    size = total // degree
    own = slice(member * size, (member + 1) * size)
    return RowShare(token_ids[own], positions[own], labels[own], spans)


def num_targets(sequences: Sequence[Ids]) -> int:
    """Return how many tokens are predicted: all but the first of each sequence."""
    return sum(max(0, len(row) - 1) for row in sequences)
