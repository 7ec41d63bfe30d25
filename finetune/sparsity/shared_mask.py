"""One mask for all clients of a round, which no message carries and no text decides.

All entries stand in one drawn order, the same in every job since nothing about it is secret, and
each round takes the next ones round the circle. So every entry is sent once in about 1 / density
rounds, a client's choice tells nothing of its text, and values can be added entry by entry.

Source: random-k masks as in Konecny et al. 2016 (arXiv 1610.05492), section 3, with the draw
replaced by turns, so that none waits longer than the others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.factors import is_down
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.density import density, num_kept
from finetune.sparsity.layout import Layout
from finetune.updates import Tensors

_ORDER_SEED = 0x6D61736B


def shared_positions(
    length: int, config: SparsityConfig, *, round_number: int
) -> NDArray[np.int64]:
    """Return the entries whose changes all clients send in a round, in rising order.

    Args:
        length: Entries of the adapter.
        config: Its upload densities.
        round_number: Counts from 1.
    """
    counts = [_num_sent(length, config, number) for number in range(1, round_number + 1)]
    order = np.random.default_rng(_ORDER_SEED).permutation(length)
    turns = np.arange(sum(counts[:-1]), sum(counts)) % length
    return np.sort(order[turns])


@dataclass(frozen=True, slots=True)
class SharedMask:
    """A job's masks, as the server adds up by them.

    Attributes:
        config: The job's.
        is_down_frozen: Whether no entry of A is trained, and none in the mask.
    """

    config: SparsityConfig
    is_down_frozen: bool = False

    def num_entries(self, start: Tensors, *, round_number: int) -> int:
        """Return how many entries of an adapter a round's clients send."""
        return len(self._positions(self._layout(start), round_number))

    def spread(
        self, values: NDArray[np.float64], start: Tensors, *, round_number: int
    ) -> dict[str, NDArray[np.float64]]:
        """Return a change of `start` whose entries in the mask are `values`, and zero elsewhere.

        Args:
            values: In the order of the mask, shape (entries,).
            start: The adapter that was sent.
            round_number: Counts from 1.
        """
        layout = self._layout(start)
        change = np.zeros(layout.length, np.float64)
        change[self._positions(layout, round_number)] = values
        nothing = {name: np.zeros(tensor.shape) for name, tensor in start.items()}
        return nothing | layout.tensors(change)

    def _layout(self, start: Tensors) -> Layout:
        return Layout.of(
            {n: t for n, t in start.items() if not (self.is_down_frozen and is_down(n))}
        )

    def _positions(self, layout: Layout, round_number: int) -> NDArray[np.int64]:
        return shared_positions(layout.length, self.config, round_number=round_number)


def _num_sent(length: int, config: SparsityConfig, round_number: int) -> int:
    share = density(
        config.upload_density,
        decay=config.upload_decay,
        every_rounds=config.decay_every_rounds,
        round_number=round_number,
    )
    return num_kept(length, share)
