"""Norm clipping of the clients' changes, one row each.

Shape suffixes: K clients, N entries of the whole adapter.
"""

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def clip(changes_KN: Rows, *, most_norm: float) -> tuple[Rows, NDArray[np.bool_]]:
    """Scale each row that is longer than `most_norm` down to it.

    Args:
        changes_KN: The clients' changes. Shape: (clients, entries).
        most_norm: Longest norm that stays as it is.

    Returns:
        The rows, none longer than `most_norm` (to float64 rounding), and which were scaled.
        Shapes: (clients, entries), (clients,).

    Raises:
        ValueError: If `most_norm` is not positive.

    Source: McMahan et al. 2018 (arXiv 1710.06963), section 2, flat clipping.
    """
    if not most_norm > 0:
        raise ValueError(f"norm {most_norm} clips to nothing; give a positive one")
    norms_K = np.linalg.norm(changes_KN, axis=1)
    is_clipped_K = norms_K > most_norm
    factors_K = np.where(is_clipped_K, most_norm / np.where(is_clipped_K, norms_K, 1.0), 1.0)
    return changes_KN * factors_K[:, None], is_clipped_K
