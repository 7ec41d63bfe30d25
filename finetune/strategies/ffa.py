"""FFA-LoRA: A stays at its seeded draw, clients train B alone, whose mean is exact."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors
from finetune.strategies.strategy import Target, check_shared_down, weighted_sum


def ffa(clients: Sequence[Factors], weights_K: NDArray[np.float64], target: Target) -> Factors:
    """Return the mean of B over the A that all clients hold.

    A client of lower rank holds the first rows of A.

    Raises:
        ValueError: If the clients' A differ.

    Source: Sun et al. 2024 (arXiv 2403.12313).
    """
    check_shared_down(clients)
    padded = [factors.padded(target.rank, scale=target.scale) for factors in clients]
    up_MR = weighted_sum([factors.up_MR for factors in padded], weights_K)
    largest = max(range(len(clients)), key=lambda index: clients[index].rank)
    return Factors(up_MR, padded[largest].down_RN, target.scale)
