"""Rotary positions from a table, which is computed once and grows with the longest sequence.

Shape letters: T rows, L positions in the table, D head size.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from serving.engine.transfer import upload

_FEWEST_POSITIONS = 512


class RotationTable:
    """Cosine and signed sine by position, of a model's own rotary module."""

    def __init__(self, rotary: Callable[..., Any], like: Tensor) -> None:
        """Take transformers' module; the table has the type and device of `like`."""
        self._rotary = rotary
        self._like = like
        self._table = like.new_empty(0)

    def of(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of the rows' positions; the sine's first half is negated.

        Shape: (T, 1, D) each.
        """
        most = max(positions)
        if most >= len(self._table):
            self._table = self._computed(max(_FEWEST_POSITIONS, 1 << most.bit_length()))
        found = self._table.index_select(0, upload(positions, self._like.device))
        cosine, signed_sine = found.unbind(1)
        return cosine, signed_sine

    def _computed(self, num_positions: int) -> Tensor:
        """Return the table. Shape: (L, 2, 1, D)."""
        places = torch.arange(num_positions, device=self._like.device)[None]
        cosine, sine = self._rotary(self._like, position_ids=places)
        half = sine.shape[-1] // 2
        signed = torch.cat((-sine[..., :half], sine[..., half:]), dim=-1)
        return torch.stack((cosine[0], signed[0]), dim=1).unsqueeze(2)
