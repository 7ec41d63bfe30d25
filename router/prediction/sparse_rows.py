"""Sparse rows of hashed features as one matrix, with the two products a truncated SVD needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from router.prediction.features import HashedFeatures

Float32 = NDArray[np.float32]
Integers = NDArray[np.int64]
_CHUNK_ENTRIES = 1 << 16
"""Entries multiplied at once: their products with 150 columns take 40 MB."""


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A matrix in compressed rows. Shape: (num_rows, num_columns)."""

    starts: Integers
    """Where each row begins, and the end. Shape: (num_rows + 1,)."""
    columns: Integers
    """Of each entry."""
    values: Float32
    """Of each entry."""
    num_columns: int

    @property
    def num_rows(self) -> int:
        """How many rows there are, empty ones included."""
        return len(self.starts) - 1

    def times(self, right: Float32) -> Float32:
        """Return this matrix times a dense one. Shape: (num_rows, right columns)."""
        result = np.zeros((self.num_rows, right.shape[1]), dtype=np.float32)
        filled = np.flatnonzero(np.diff(self.starts))
        begin = 0
        while begin < len(filled):
            first = self.starts[filled[begin]]
            # At least one row a time, however long it is.
            end = int(np.searchsorted(self.starts[filled], first + _CHUNK_ENTRIES, side="right"))
            end = max(begin + 1, end - 1) if end < len(filled) else len(filled)
            rows = filled[begin:end]
            last = self.starts[rows[-1] + 1]
            products = right[self.columns[first:last]] * self.values[first:last, None]
            result[rows] = np.add.reduceat(products, self.starts[rows] - first, axis=0)
            begin = end
        return result

    def transposed(self) -> "SparseRows":
        """Return the matrix with rows and columns exchanged."""
        order = np.argsort(self.columns, kind="stable")
        rows = np.repeat(np.arange(self.num_rows), np.diff(self.starts))
        counts = np.bincount(self.columns, minlength=self.num_columns)
        starts = np.concatenate(([0], np.cumsum(counts)))
        return SparseRows(starts, rows[order], self.values[order], self.num_rows)


def stack(features: Sequence[HashedFeatures], *, num_columns: int) -> SparseRows:
    """Return hashed features as rows, a bucket a column."""
    starts = np.fromiter(
        accumulate((len(one.indices) for one in features), initial=0),
        dtype=np.int64,
        count=len(features) + 1,
    )
    if not features:
        return SparseRows(
            starts, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), num_columns
        )
    return SparseRows(
        starts,
        np.concatenate([one.indices for one in features]).astype(np.int64),
        np.concatenate([one.values for one in features]).astype(np.float32),
        num_columns,
    )
