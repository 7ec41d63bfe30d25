"""The all-to-all around attention: from all heads of some tokens to some heads of all tokens.

DeepSpeed-Ulysses (arXiv 2309.14509): each of d ranks holds an equal run of a row's tokens. Before
attention they exchange, so that each holds all tokens of 1/d of the heads, and after it back.

Shape letters: d ranks of the group, T tokens of the row, t = T / d tokens of one rank, H query
heads, G key-value heads, F numbers that one rank sends another for one token.
"""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _AllToAll(torch.autograd.Function):
    """Send the i-th block to rank i; receive in the order of ranks. Its own transpose."""

    @staticmethod
    def forward(ctx: Any, blocks: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchanged(blocks, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return _exchanged(gradients[0], ctx.group), None


def _exchanged(blocks: Tensor, group: dist.ProcessGroup) -> Tensor:
    sent = blocks.contiguous()
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent, group=group)
    return received


def num_key_value_copies(num_key_value_heads: int, degree: int) -> int:
    """Return how often each key-value head is repeated so that `degree` ranks get as many."""
    return degree // math.gcd(num_key_value_heads, degree)


class HeadExchange:
    """The exchanges of one group; without a communicator it changes nothing."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        """Belong to the group, None for a rank alone."""
        self._group = group
        self.degree = 1 if group is None else group.size()

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all tokens of this rank's share of the heads.

        Key-value heads that the degree does not divide are repeated until it does; a query head
        meets its own. All three travel in one exchange.

        Args:
            query: Shape: (t, H, width).
            key: Shape: (t, G, width).
            value: Shape: (t, G, width of its own).

        Returns:
            Query (T, H / d, width), key and value (T, lcm(G, d) / d, width).

        Raises:
            ValueError: If the degree does not divide the query heads.
        """
        if self._group is None:
            return query, key, value
        if query.shape[1] % self.degree:
            raise ValueError(
                f"a group of {self.degree} ranks cannot share {query.shape[1]} query heads; plan "
                "with degrees that divide them"
            )
        copies = num_key_value_copies(key.shape[1], self.degree)
        parts = [query, *(part.repeat_interleave(copies, dim=1) for part in (key, value))]
        by_rank = [self._by_rank(part) for part in parts]
        received = self._all_to_all(torch.cat(by_rank, dim=2)).flatten(0, 1)
        rows = torch.split(received, [block.shape[2] for block in by_rank], dim=1)
        query, key, value = (
            row.reshape(len(row), -1, part.shape[2]) for row, part in zip(rows, parts, strict=True)
        )
        return query, key, value

    def to_tokens(self, mixed: Tensor) -> Tensor:
        """Return all heads of this rank's tokens.

        Args:
            mixed: Shape: (T, H / d, width).

        Returns:
            Shape: (t, H, width).
        """
        if self._group is None:
            return mixed
        num_tokens, _, width = mixed.shape
        share = num_tokens // self.degree
        received = self._all_to_all(mixed.reshape(self.degree, share, -1))
        return received.transpose(0, 1).reshape(share, -1, width)

    def _by_rank(self, part: Tensor) -> Tensor:
        """Cut the heads into one block for each rank. Shape: (d, t, F)."""
        return part.reshape(len(part), self.degree, -1).transpose(0, 1)

    def _all_to_all(self, blocks: Tensor) -> Tensor:
        received: Tensor = _AllToAll.apply(blocks, self._group)  # type: ignore[no-untyped-call]
        return received
