"""Products of thin factors without forming them: norms, singular values, the best lower rank.

Everything runs in float64: the small singular values of float32 factors are noise otherwise.

Shape suffixes: M outputs of a layer, N inputs, R rank, K = min(M, N, R).

Source: Eckart and Young 1936; LoRA-Squeeze (arXiv 2602.10993) for the use on adapters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A thin singular value decomposition of `scale * up @ down`.

    Attributes:
        left_MK: Orthonormal columns.
        values_K: Singular values, falling.
        right_KN: Orthonormal rows, those of zero values among them.
        rounding: How far the rounding of the factors to their own type may have moved a value.
    """

    left_MK: Array
    values_K: Array
    right_KN: Array
    rounding: float = 0.0

    @property
    def num_nonzero(self) -> int:
        """Singular values that rounding does not explain."""
        size = max(len(self.left_MK), self.right_KN.shape[1])
        ours = self.values_K[0] * size * np.finfo(np.float64).eps
        return int(np.count_nonzero(self.values_K > max(ours, self.rounding)))


def stacked(clients: Sequence[Factors], weights: Sequence[float] | Array) -> Factors:
    """Return one pair of factors, of scale 1, whose product is the weighted sum of products.

    Weight and scale go into B alone: in both factors they would count squared. A keeps its type,
    which tells how far its values are rounded.
    """
    ups = [
        np.asarray(factors.up_MR, np.float64) * (weight * factors.scale)
        for factors, weight in zip(clients, weights, strict=True)
    ]
    downs = [factors.down_RN for factors in clients]
    return Factors(np.concatenate(ups, axis=1), np.concatenate(downs, axis=0), 1.0)


def frobenius_norm(factors: Factors) -> float:
    """Return the norm of the product.

    By thin QR: traces of Gram matrices would lose half the digits of a product near zero.
    """
    _, up_triangle = np.linalg.qr(np.asarray(factors.up_MR, np.float64))
    _, down_triangle = np.linalg.qr(np.asarray(factors.down_RN, np.float64).T)
    return factors.scale * float(np.linalg.norm(up_triangle @ down_triangle.T))


def difference_norm(first: Factors, second: Factors) -> float:
    """Return the norm of the difference of two products."""
    return frobenius_norm(stacked([first, second], [1.0, -1.0]))


def decompose(factors: Factors) -> Spectrum:
    """Return the singular value decomposition of the product, in O((M + N) R^2)."""
    left_MR, up_triangle = np.linalg.qr(np.asarray(factors.up_MR, np.float64))
    right_NR, down_triangle = np.linalg.qr(np.asarray(factors.down_RN, np.float64).T)
    core = factors.scale * (up_triangle @ down_triangle.T)
    left, values_K, right = np.linalg.svd(core, full_matrices=False)
    return Spectrum(left_MR @ left, values_K, right @ right_NR.T, _rounding(factors))


def _rounding(factors: Factors) -> float:
    """Return a bound on what half a unit in the last place of every entry does to the product.

    By Weyl's inequality no singular value moves further.
    """
    coarsest = max(float(np.finfo(f.dtype).eps) for f in (factors.up_MR, factors.down_RN))
    norms = [float(np.linalg.norm(f.astype(np.float64))) for f in (factors.up_MR, factors.down_RN)]
    return factors.scale * coarsest * norms[0] * norms[1]


def best_rank(
    spectrum: Spectrum, rank: int, *, scale: float, is_down_orthonormal: bool = False
) -> Factors:
    """Return the factors of `rank` and `scale` whose product is nearest to the spectrum's.

    Components are in order, so that `leading` of the result is the best of a lower rank. Where the
    spectrum has fewer than `rank` values above zero, the spare components have B zero and rows of A
    orthonormal to the others: they add nothing and can be trained.

    Args:
        spectrum: Of the product wanted.
        rank: At least 1.
        scale: Above zero; the factors take up its inverse.
        is_down_orthonormal: Leave the singular values to B, as FedSVD does; otherwise the factors
            share their roots, so that gradients of both are of one size.
    """
    if rank < 1 or not scale > 0:
        raise ValueError(f"rank {rank}, scale {scale}: both must be positive")
    kept = min(rank, spectrum.num_nonzero)
    values = spectrum.values_K[:kept] / scale
    of_down = np.ones(kept) if is_down_orthonormal else np.sqrt(values)
    up_MR = np.zeros((len(spectrum.left_MK), rank))
    up_MR[:, :kept] = spectrum.left_MK[:, :kept] * (values / of_down)
    rows_RN = _orthonormal_rows(spectrum.right_KN[:rank], rank)
    rows_RN[:kept] *= of_down[:, None]
    return Factors(up_MR, rows_RN, scale)


def _orthonormal_rows(rows_KN: Array, count: int) -> Array:
    """Return orthonormal rows and `count - K` more, the same ones at every call."""
    missing, width = count - len(rows_KN), rows_KN.shape[1]
    if missing <= 0:
        return rows_KN.copy()
    room = min(missing, width - len(rows_KN))
    drawn = np.random.default_rng(0).normal(size=(room, width))
    for _ in range(2):  # once leaves what rounding lets slip
        drawn -= (drawn @ rows_KN.T) @ rows_KN
    columns, _ = np.linalg.qr(drawn.T)
    more = columns.T
    # Above the width no row is orthogonal to all; those beyond it need only not be zero.
    beyond = np.eye(width)[np.arange(missing - room) % width]
    return np.concatenate([rows_KN, more, beyond])
