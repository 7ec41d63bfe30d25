"""The exact mean of products, cut to the nearest of the server's rank (as FlexLoRA does).

Components come in order, so a client of lower rank takes the first ones, which are the best of its
rank. Jobs whose ends remember entries turn the result back (`finetune/bases.py`), and then they do not.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors
from finetune.low_rank import best_rank, decompose, stacked
from finetune.strategies.strategy import Target


def best_rank_mean(
    clients: Sequence[Factors], weights_K: NDArray[np.float64], target: Target
) -> Factors:
    """Return the best approximation of the weighted mean of scaled products.

    Source: Eckart and Young 1936; Bai et al. 2024 (arXiv 2402.11505).
    """
    return best_rank(decompose(stacked(clients, weights_K)), target.rank, scale=target.scale)
