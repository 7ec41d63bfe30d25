"""FedAvg of the LoRA factors (FedIT): the weighted means of A and of B.

The mean of products is not the product of means, so with clients that differ the result is biased.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.updates import Update


def fedavg(updates: Sequence[Update]) -> dict[str, NDArray[np.float32]]:
    """Return the mean of each tensor, weighted by the clients' numbers of examples.

    All updates must hold the same tensors at the same rank and alpha: `refusal_reason` sees to it.
    Sums run in float64, so the order of the clients does not show in the float32 result.

    Raises:
        ValueError: If there is no update.

    Source: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1.
    """
    if not updates:
        raise ValueError("no update to average; give at least one")
    weights = np.array([update.num_examples for update in updates], np.float64)
    weights /= weights.sum()
    return {
        name: _weighted_sum([update.tensors[name] for update in updates], weights)
        for name in updates[0].tensors
    }


def _weighted_sum(
    tensors: Sequence[NDArray[np.float32]], weights: NDArray[np.float64]
) -> NDArray[np.float32]:
    total = np.zeros(tensors[0].shape, np.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        total += weight * tensor
    return total.astype(tensors[0].dtype)
