"""The basis of an adapter's factors: turned back towards an old one, and what belonged to that.

A product has as many pairs of factors as there are invertible matrices. Aggregations that decompose
the mean product pick new factors each round, so that an entry of A or B no longer means what it
meant. Turned back, they mean it again as nearly as the product allows.

Shape suffixes: M outputs of a layer, N inputs, R rank.
"""

import numpy as np

from finetune.factors import Factors

LEAST_SINGULAR = 1e-3
"""Directions of a factor this small beside its largest carry no coordinates: what stands on them is
dropped, since dividing by them would let rounding grow."""


def turned_towards(factors: Factors, old: Factors) -> Factors:
    """Return the same product in the factors nearest to `old` that a rotation reaches.

    With Q the rotation, (B Q, Q^T A) minimises ||B Q - B_old||^2 + ||Q^T A - A_old||^2. Both factors
    keep their norms, and `old` itself comes back from any rotation of it.

    Raises:
        ValueError: If the ranks differ.

    Source: Schoenemann 1966, "A generalized solution of the orthogonal Procrustes problem".
    """
    if factors.rank != old.rank:
        raise ValueError(f"rank {factors.rank} cannot be turned towards rank {old.rank}")
    up_MR = np.asarray(factors.up_MR, np.float64)
    down_RN = np.asarray(factors.down_RN, np.float64)
    left, _, right = np.linalg.svd(up_MR.T @ old.up_MR + down_RN @ old.down_RN.T)
    turn_RR = left @ right
    return Factors(up_MR @ turn_RR, turn_RR.T @ down_RN, factors.scale)


def carried_over(leftover: Factors, old: Factors, new: Factors) -> Factors:
    """Return a change of the factors of `old` as a change of those of `new`.

    With X and Y the least-squares solutions of B_old X = B_new and Y A_old = A_new, the change
    (dB, dA) becomes (dB X, Y dA). Where `new` is `old` in another basis, the change of the product
    is the same, second order included. Where `new` is a squeeze of `old`, what the squeeze cut off
    is lost: of the product's change there remains dB X Y A_old + B_old X Y dA + dB X Y dA, and X Y
    projects on what was kept. A column of B, or row of A, that is zero in `old` says nothing of
    where its partner went, and what stood on the partner is lost too.

    Args:
        leftover: The change, of the rank of `old`.
        old: The adapter it belongs to.
        new: The adapter that took its place, of any rank.
    """
    up_RS = np.linalg.pinv(old.up_MR.astype(np.float64), rcond=LEAST_SINGULAR) @ new.up_MR
    down_SR = new.down_RN @ np.linalg.pinv(old.down_RN.astype(np.float64), rcond=LEAST_SINGULAR)
    return Factors(leftover.up_MR @ up_RS, down_SR @ leftover.down_RN, new.scale)
