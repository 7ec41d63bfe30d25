"""FLoRA: the clients' factors stacked, which is exact; squeezed where that exceeds the rank wanted.

FLoRA itself merges the stack into the base model and lets the clients start anew. Here the base
stays as it is, so a stack that is too large is cut to the target's rank at once: in a job, whose
updates have its rank, two clients or more give what `best-rank` gives.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors
from finetune.low_rank import best_rank, decompose, stacked
from finetune.strategies.strategy import Target


def flora(clients: Sequence[Factors], weights_K: NDArray[np.float64], target: Target) -> Factors:
    """Return the stack itself where the target has room for it, or the best of the target's rank.

    Source: Wang et al. 2024 (arXiv 2409.05976); weights in one factor only.
    """
    stack = stacked(clients, weights_K)
    if stack.rank <= target.rank:
        return stack.padded(target.rank, scale=target.scale)
    return best_rank(decompose(stack), target.rank, scale=target.scale)
