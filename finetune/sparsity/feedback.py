"""What a client did not send, kept for its next update (error feedback).

Everything sent plus what is left over is the sum of all changes, to float32 rounding, where no
decay and no reset dropped some of it. What the server refuses counts as sent: it is not carried over.

Source: Seide et al. 2014, "1-bit stochastic gradient descent"; Stich et al. 2018, "Sparsified SGD
with memory" (arXiv 1809.07599).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Residual:
    """What is left over after a client's last update.

    Attributes:
        vector: Shape (length,).
        round_number: Of that update.
        basis: Of the adapter it belongs to: a squeeze or a change of basis begins another.
    """

    vector: Vector
    round_number: int
    basis: int


def carried(
    residual: Residual | None, *, length: int, round_number: int, basis: int, decay: float
) -> Vector | None:
    """Return what of `residual` counts in this round, shape (length,), or None if nothing does.

    It shrinks by `decay` for each round missed since. In another basis its entries mean nothing,
    so it is dropped; an adapter of another length is in another basis.
    """
    if residual is None or residual.basis != basis or len(residual.vector) != length:
        return None
    num_missed = round_number - residual.round_number - 1
    if num_missed < 1 or decay == 1.0:
        return residual.vector
    return residual.vector * np.float32(decay**num_missed)
