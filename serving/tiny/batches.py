"""Training batches as a pure function of the step, so that a resumed run sees what it would have."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from serving.tiny.bigram import TokenIds
from serving.tiny.recipe import Schedule


class Batches:
    """Cuts one long token stream into shuffled, non-overlapping windows, epoch after epoch.

    Each epoch starts its windows at another offset, so that window borders move.
    """

    def __init__(self, tokens: TokenIds, *, seed: int) -> None:
        """Keep the stream.

        Args:
            tokens: Token ids of all documents, separated by the end-of-text id. Shape: (n,).
            seed: Decides order and offsets.
        """
        self._tokens = tokens
        self._seed = seed
        self._epoch_starts = lru_cache(maxsize=2)(self._shuffled_starts)

    def at(self, step: int, schedule: Schedule, *, long_tokens: int) -> torch.Tensor:
        """Return the token ids of `step`. Shape: (sequences, length + 1).

        The last `long_fraction` of the steps uses sequences of `long_tokens`.
        """
        length = (
            long_tokens
            if step >= (1 - schedule.long_fraction) * schedule.num_steps
            else schedule.sequence_tokens
        )
        length = min(length, schedule.tokens_per_step)
        num_sequences = schedule.tokens_per_step // length
        windows = (len(self._tokens) - length - 1) // length
        rows = []
        for index in range(step * num_sequences, (step + 1) * num_sequences):
            epoch, position = divmod(index, windows)
            start = self._epoch_starts(epoch, length)[position]
            rows.append(self._tokens[start : start + length + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def _shuffled_starts(self, epoch: int, length: int) -> NDArray[np.int64]:
        generator = np.random.default_rng((self._seed, epoch, length))
        windows = (len(self._tokens) - length - 1) // length
        return generator.permutation(windows) * length + generator.integers(length)
