"""The entries of largest magnitude, over all tensors together."""

import numpy as np
from numpy.typing import NDArray


def top_k(vector: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return `vector` with all but its `k` entries of largest magnitude set to zero.

    Of equal magnitudes the lower index is kept, so that a resumed run makes the same choice.

    Args:
        vector: Finite, shape (length,).
        k: 1 to length.

    Raises:
        ValueError: If `k` is out of range.
    """
    if not 1 <= k <= len(vector):
        raise ValueError(f"k is {k}; give 1 to {len(vector)}")
    if k == len(vector):
        return vector
    magnitudes = np.abs(vector)
    threshold = np.partition(magnitudes, len(vector) - k)[len(vector) - k]
    is_kept = magnitudes > threshold
    at_threshold = np.flatnonzero(magnitudes == threshold)
    is_kept[at_threshold[: k - int(is_kept.sum())]] = True
    return np.where(is_kept, vector, np.float32(0))
