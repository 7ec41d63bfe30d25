"""Linear layers of a device whose library picks another kernel for another number of rows.

A GPU's matrix library chooses its kernel, and with it the order of sums, by shape. Products of one
shape only therefore give a row the same bits whatever stands beside it, as far as the kernel treats
its rows alike; `serving.engine.invariance` finds out whether it does. Up to a block's rows a product
waits for its weights, so that the padding costs no time there.

Shape letters: M rows, I input width, O output width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from serving.engine.kernels import PackedLinear

BLOCK_ROWS = 64
"""Rows of every product: a tree's most."""


class FixedRowsLinear(PackedLinear):
    """A dense weight, in its own type and on its own device, multiplied in blocks of rows."""

    kind = "fixed-rows"

    def __init__(self, dense: nn.Linear) -> None:
        """Take the weight of `dense`; nothing is copied."""
        super().__init__(dense)
        self._weight_OI = dense.weight.detach()
        self.bias = None if dense.bias is None else dense.bias.detach()

    @property
    def weight(self) -> Tensor:
        """The weight. Shape: (O, I)."""
        return self._weight_OI

    @property
    def weight_bytes(self) -> int:
        """Memory one product reads."""
        return self._weight_OI.nbytes

    def multiply(self, rows_MI: Tensor) -> Tensor:
        """Return the product, block by block, the last one filled with copies of the first row."""
        num_rows = rows_MI.shape[0]
        if missing := -num_rows % BLOCK_ROWS:
            rows_MI = torch.cat((rows_MI, rows_MI[:1].expand(missing, -1)))
        blocks = [
            functional.linear(block, self._weight_OI) for block in torch.split(rows_MI, BLOCK_ROWS)
        ]
        return (blocks[0] if len(blocks) == 1 else torch.cat(blocks))[:num_rows]
