"""The leading right singular vectors of a large matrix, sparse or dense.

Source: Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 53 (2011), 4.4.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
_OVERSAMPLING = 20
_NUM_ITERATIONS = 3


class Matrix(Protocol):
    """What a randomised subspace iteration asks of a matrix."""

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        ...

    @property
    def num_columns(self) -> int:
        """How many columns there are."""
        ...

    def times(self, right: Float32) -> Float32:
        """Return this matrix times a dense one."""
        ...

    def transposed(self) -> Self:
        """Return the matrix with rows and columns exchanged."""
        ...


@dataclass(frozen=True, slots=True)
class DenseRows:
    """A plain array as such a matrix."""

    values: Float32

    @property
    def num_rows(self) -> int:
        """How many rows there are."""
        return len(self.values)

    @property
    def num_columns(self) -> int:
        """How many columns there are."""
        return int(self.values.shape[1])

    def times(self, right: Float32) -> Float32:
        """Return this matrix times a dense one."""
        return self.values @ right

    def transposed(self) -> "DenseRows":
        """Return the matrix with rows and columns exchanged."""
        return DenseRows(self.values.T)


def right_singular_vectors(
    matrix: Matrix, num_dimensions: int, generator: np.random.Generator
) -> Float32:
    """Return the leading right singular vectors, as many as there are, padded with zeros.

    Shape: (num_columns, num_dimensions).
    """
    result = np.zeros((matrix.num_columns, num_dimensions), dtype=np.float32)
    width = min(num_dimensions + _OVERSAMPLING, matrix.num_rows, matrix.num_columns)
    if not width:
        return result
    transposed = matrix.transposed()
    basis = matrix.times(generator.standard_normal((matrix.num_columns, width), dtype=np.float32))
    for _ in range(_NUM_ITERATIONS):
        basis = np.linalg.qr(basis)[0]
        basis = matrix.times(transposed.times(basis))
    basis = np.linalg.qr(basis)[0]
    small = transposed.times(basis)
    vectors, _, _ = np.linalg.svd(small, full_matrices=False)
    taken = min(num_dimensions, width)
    # A singular vector's sign is arbitrary: the largest entry is made positive.
    signs = np.sign(vectors[np.abs(vectors[:, :taken]).argmax(axis=0), np.arange(taken)])
    result[:, :taken] = vectors[:, :taken] * signs
    return result
