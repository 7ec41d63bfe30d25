"""The next version of an adapter: the current one plus weighted changes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.updates import Tensors


def change(trained: Tensors, start: Tensors) -> dict[str, NDArray[np.float32]]:
    """Return what training changed: `trained` minus `start`, by name."""
    return {name: tensor - start[name] for name, tensor in trained.items()}


def apply_changes(
    tensors: Tensors,
    changes: Sequence[Mapping[str, NDArray[np.floating]]],
    weights: Sequence[float],
) -> dict[str, NDArray[np.float32]]:
    """Return `tensors` plus the weighted sum of `changes`, summed in float64.

    All must hold the same names and shapes. Changes of the factors, made from different versions,
    add up only as long as no version changed the basis.

    Raises:
        ValueError: If there are not as many weights as changes.
    """
    if len(changes) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(changes)} changes; give one for each")
    result = {}
    for name, tensor in tensors.items():
        total = tensor.astype(np.float64)
        for one, weight in zip(changes, weights, strict=True):
            total += np.multiply(weight, one[name], dtype=np.float64)
        result[name] = total.astype(tensor.dtype)
    return result
