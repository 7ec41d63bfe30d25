"""All tensors of an adapter as one vector."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.factors import UP_SUFFIX, is_down
from finetune.updates import Tensors

Vector = NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.float64)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each tensor stands in the vector; both ends make it from their own adapter.

    Attributes:
        shapes: By name. The vector has the tensors in this order, each row by row: A before B,
            then by module, then by layer, so that neighbours are alike in how much of them is sent,
            which the codes of positions and int8's scales profit from.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, tensors: Tensors) -> "Layout":
        """Return the layout of an adapter."""
        return cls({name: tensors[name].shape for name in sorted(tensors, key=_reversed)})

    def at_rank(self, rank: int) -> "Layout":
        """Return the layout of the same modules at another rank."""
        return Layout({name: _at_rank(name, shape, rank) for name, shape in self.shapes.items()})

    def of_length(self, length: int) -> "Layout":
        """Return the layout of the rank at which these modules have so many entries.

        Raises:
            ValueError: If they have at none.
        """
        per_component = self.at_rank(1).length - self.at_rank(0).length
        rank, rest = divmod(length - self.at_rank(0).length, per_component or 1)
        if rest or rank < 0:
            raise ValueError(f"no rank gives the adapter {length} entries")
        return self.at_rank(rank)

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def flat(self, tensors: Tensors) -> Vector:
        """Return the tensors as a new vector, shape (length,), without those it does not name.

        Raises:
            ValueError: If one that it names is missing or of another shape.
        """
        own = {name: tensor.shape for name, tensor in tensors.items() if name in self.shapes}
        if self.shapes != own:
            raise ValueError("the tensors belong to another adapter")
        return np.concatenate([tensors[name].ravel() for name in self.shapes])

    def tensors(self, vector: NDArray[Number]) -> dict[str, NDArray[Number]]:
        """Return a vector of shape (length,) as new tensors."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        parts = np.split(vector, ends[:-1])
        return {
            name: part.reshape(shape).copy()
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def _reversed(name: str) -> list[str]:
    return name.split(".")[::-1]


def _at_rank(name: str, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    if name.endswith(UP_SUFFIX):
        return (shape[0], rank)
    return (rank, shape[1]) if is_down(name) else shape
