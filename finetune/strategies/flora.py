"""FLoRA: the clients' factors stacked, which is exact; squeezed where that exceeds the rank wanted.

FLoRA itself sends every client the stack, of the sum of all ranks, to merge into its base model, and
lets it start anew from a fresh adapter. Here the base stays as it is and the result is one adapter on
it, so the server cuts a stack that is too large to the target's rank at once, and clients are sent
that: `rank` components down in place of the sum of the ranks. In a job, whose updates have its rank,
two clients or more therefore give what `best-rank` gives. Where the target has room for the stack, it
is kept as it is, which is exact.
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
