"""Real numbers as whole ones that add up modulo a power of two without overflow."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Masked = NDArray[np.unsignedinteger]
"""Whole numbers modulo 2^16 or 2^32; numpy's own overflow is the reduction."""


_SLACK = 1e-12
"""What clipping may leave above its bound by rounding; far less than a step of the grid."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """The grid that clients round to before they mask.

    Attributes:
        most_absolute: Largest absolute entry of a client; clip before encoding.
        num_clients: Most clients whose vectors are added.
        bits: Width of a masked entry on the wire.

    Raises:
        ValueError: If the width has no room for so many clients, or a bound is not positive.
    """

    most_absolute: float
    num_clients: int
    bits: Literal[16, 32] = 32

    def __post_init__(self) -> None:
        if not (0 < self.most_absolute < float("inf") and self.num_clients > 0):
            raise ValueError(
                f"most_absolute {self.most_absolute} and {self.num_clients} clients must be "
                "positive and finite"
            )
        if self.num_levels < 1:
            raise ValueError(
                f"{self.bits} bits have no room for {self.num_clients} clients; take 32"
            )

    @property
    def num_levels(self) -> int:
        """Largest whole number of one client: as many clients' fit a signed sum."""
        return ((1 << (self.bits - 1)) - 1) // self.num_clients

    @property
    def step(self) -> float:
        """Distance of neighbouring numbers of the grid."""
        return self.most_absolute / self.num_levels

    def most_error(self, num_added: int) -> float:
        """Return the largest error of an entry of a sum of so many vectors.

        Half a step each, and float64's rounding, which is below a thousandth of that.
        """
        return num_added * self.step * 0.501

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger]":
        """The type of a masked entry, little-endian on every machine."""
        return np.dtype(f"<u{self.bits // 8}")

    def encode(self, values_N: NDArray[np.floating]) -> Masked:
        """Return the nearest numbers of the grid, as whole numbers modulo 2^bits.

        Raises:
            ValueError: If an entry is not finite or above `most_absolute`.
        """
        largest = float(np.abs(values_N).max(initial=0.0))
        if not largest <= self.most_absolute * (1 + _SLACK):
            raise ValueError(
                f"an entry is {largest:.6g}, above most_absolute {self.most_absolute:g}; clip first"
            )
        whole_N = np.rint(values_N.astype(np.float64) / self.step).astype(np.int64)
        return whole_N.astype(self.dtype)

    def decode(self, total_N: Masked) -> NDArray[np.float64]:
        """Return a sum of encoded vectors as real numbers."""
        signed_N = total_N.view(f"<i{self.bits // 8}")
        return signed_N.astype(np.float64) * self.step
