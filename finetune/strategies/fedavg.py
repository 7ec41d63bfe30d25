"""FedAvg of the LoRA factors (FedIT): the weighted means of A and of B.

The mean of products is not the product of means, so with clients that differ the result is biased.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors
from finetune.strategies.strategy import Target, weighted_sum


def fedavg(clients: Sequence[Factors], weights_K: NDArray[np.float64], target: Target) -> Factors:
    """Return the means of factors that are brought to the target's scale and padded with zeros.

    Source: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1; Zhang et al. 2023
    (arXiv 2305.05644) for LoRA.
    """
    padded = [factors.padded(target.rank, scale=target.scale) for factors in clients]
    return Factors(
        weighted_sum([factors.up_MR for factors in padded], weights_K),
        weighted_sum([factors.down_RN for factors in padded], weights_K),
        target.scale,
    )
