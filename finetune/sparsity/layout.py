"""All tensors of an adapter as one vector."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.updates import Tensors

Vector = NDArray[np.float32]


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

    @property
    def length(self) -> int:
        """Entries of the vector."""
        return sum(int(np.prod(shape)) for shape in self.shapes.values())

    def flat(self, tensors: Tensors) -> Vector:
        """Return the tensors as a new vector, shape (length,).

        Raises:
            ValueError: If they are not of this layout.
        """
        if self.shapes != {name: tensor.shape for name, tensor in tensors.items()}:
            raise ValueError("the tensors belong to another adapter")
        return np.concatenate([tensors[name].ravel() for name in self.shapes])

    def tensors(self, vector: Vector) -> dict[str, Vector]:
        """Return a vector of shape (length,) as new tensors."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes.values()])
        parts = np.split(vector, ends[:-1])
        return {
            name: part.reshape(shape).copy()
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def _reversed(name: str) -> list[str]:
    return name.split(".")[::-1]
