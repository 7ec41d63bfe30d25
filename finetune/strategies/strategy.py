"""What an aggregation is: a pure function of one module's factors, and what a job must know of it.

Shape suffixes: M outputs of a layer, N inputs, R rank, K clients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors


@dataclass(frozen=True, slots=True)
class Target:
    """The form the result shall have: what the server's adapter has.

    Attributes:
        rank: Of both factors, no client's is larger.
        scale: Of their product.
    """

    rank: int
    scale: float


Combine = Callable[[Sequence[Factors], NDArray[np.float64], Target], Factors]
"""Makes one module of the clients' modules and their weights, which sum to 1. Ranks and scales may
differ from client to client; a ValueError says where the method does not take that."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A way to make one adapter of many.

    Attributes:
        combine: The mathematics, for one module.
        is_down_frozen: Clients train B alone and the server alone sets A, so that the mean of
            products is the product of means.
        keeps_basis: The result's components mean what the clients' meant; otherwise what was
            remembered by coordinates (residuals, masks, moments) belongs to another basis.
        needs_each_update: A weighted sum of the tensors would not do, as secure aggregation gives.
    """

    combine: Combine
    is_down_frozen: bool = False
    keeps_basis: bool = True
    needs_each_update: bool = True


def weighted_sum(
    arrays: Sequence[NDArray[np.floating]], weights_K: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the sum in float64, so that the order of the clients does not show in float32."""
    total = np.zeros(arrays[0].shape, np.float64)
    for array, weight in zip(arrays, weights_K, strict=True):
        total += weight * array
    return total


def check_shared_down(clients: Sequence[Factors]) -> None:
    """Check that all clients hold one A, those of lower rank the first rows of it.

    Raises:
        ValueError: If one holds another.
    """
    down_RN = max((factors.down_RN for factors in clients), key=len)
    for factors in clients:
        if not np.array_equal(factors.down_RN, down_RN[: factors.rank]):
            raise ValueError("the clients' lora_A differ; this aggregation wants one frozen A")
