"""Sequences laid end to end in one row, and one rank's equal share of it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

NO_LABEL = -100
"""Label of padding, after which nothing is predicted."""

Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowShare:
    """What one rank of a group computes.

    Attributes:
        token_ids: Of its tokens; padding is token 0. Shape: (share,).
        positions: Of each token in its sequence, from 0. Shape: (share,).
        labels: The token that follows in the same sequence; `NO_LABEL` of padding. Shape: (share,).
        spans: Where the sequences of the whole row begin, the padding as one more, and the row's
            tokens at last.
    """

    token_ids: Ids
    positions: Ids
    labels: Ids
    spans: tuple[int, ...]


def pack_row(sequences: Sequence[Ids], *, degree: int, member: int) -> RowShare:
    """Return the share of the `member`-th of `degree` ranks.

    The last token of a sequence is predicted and predicts nothing: it is a label alone, and a model
    computes no more positions than it was made for. The row is padded to a multiple of the degree,
    and to one token a rank at least; a sequence may lie across shares.

    Args:
        sequences: Token ids of each; those with nothing to predict are left out.
        degree: Ranks that share the row.
        member: Which of them, from 0.
    """
    predicting = [row for row in sequences if len(row) > 1]
    rows, followers = [row[:-1] for row in predicting], [row[1:] for row in predicting]
    num_tokens = sum(map(len, rows))
    total = max(degree, math.ceil(num_tokens / degree) * degree)
    if padding := total - num_tokens:
        rows.append(np.zeros(padding, dtype=np.int64))
        followers.append(np.full(padding, NO_LABEL, dtype=np.int64))
    spans = (0, *accumulate(len(row) for row in rows))
    token_ids = np.concatenate(rows).astype(np.int64, copy=False)
    positions = np.concatenate([np.arange(len(row), dtype=np.int64) for row in rows])
    labels = np.concatenate(followers).astype(np.int64, copy=False)
    size = total // degree
    own = slice(member * size, (member + 1) * size)
    return RowShare(token_ids[own], positions[own], labels[own], spans)


def num_targets(sequences: Sequence[Ids]) -> int:
    """Return how many tokens are predicted: all but the first of each sequence."""
    return sum(max(0, len(row) - 1) for row in sequences)
