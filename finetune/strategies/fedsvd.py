"""FedSVD: clients train B alone; the server turns the exact mean so that A's rows are orthonormal.

B goes both ways. A goes down in every round but the first, whose A is the seed's: it is another one
each time, in the same row space.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors
from finetune.low_rank import best_rank, decompose, stacked
from finetune.strategies.strategy import Target, check_shared_down


def fedsvd(clients: Sequence[Factors], weights_K: NDArray[np.float64], target: Target) -> Factors:
    """Return the mean of products with A the right singular vectors, and all sizes in B.

    Nothing is cut: the rank of the mean is at most that of the A all clients hold.

    Raises:
        ValueError: If the clients' A differ.

    Source: Lee et al. 2025 (arXiv 2505.12805).
    """
    check_shared_down(clients)
    spectrum = decompose(stacked(clients, weights_K))
    return best_rank(spectrum, target.rank, scale=target.scale, is_down_orthonormal=True)
