"""How long an update is: of its factors' change, and of the change of the layers' products.

Factors of modest norm can hide a large product, so both are bounded.

Shape suffixes: M rows of a layer (out), N columns (in), R rank.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finetune.updates import Tensors

Matrix = NDArray[np.floating]

_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"


def change_norm(tensors: Tensors, *, start: Tensors) -> float:
    """Return the Euclidean norm of `tensors - start`, over all tensors together."""
    squares = (
        np.square(np.subtract(tensor, start[name], dtype=np.float64)).sum()
        for name, tensor in tensors.items()
    )
    return math.sqrt(math.fsum(squares))


def product_norm(up_MR: Matrix, down_RN: Matrix, *, scale: float = 1.0) -> float:
    """Return the Frobenius norm of `scale * up @ down` without forming the product.

    With thin QR of both factors the orthonormal parts drop out and an R x R product is left.
    Gram traces would be as cheap but cancel where the product is near zero.
    """
    triangle_up = _triangle(up_MR)
    triangle_down = _triangle(down_RN.T)
    return abs(scale) * float(np.linalg.norm(triangle_up @ triangle_down.T))


def product_change_norm(tensors: Tensors, *, start: Tensors, scale: float) -> float:
    """Return the Frobenius norm of the change of `scale * B @ A`, over all layers together.

    Args:
        tensors: An adapter by PEFT's names.
        start: The adapter it was trained from: the same names, perhaps other ranks.
        scale: LoRA's alpha / rank, of both.
    """
    squares = []
    for layer in layers(tensors):
        up_MR = np.hstack([tensors[layer + _UP], -start[layer + _UP]])
        down_RN = np.vstack([tensors[layer + _DOWN], start[layer + _DOWN]])
        squares.append(product_norm(up_MR, down_RN, scale=scale) ** 2)
    return math.sqrt(math.fsum(squares))


def product_squared_distances(adapters: list[Tensors], *, scale: float) -> NDArray[np.float64]:
    """Return the squared Frobenius distances between the adapters' products.

    Returns:
        Shape: (adapters, adapters).
    """
    distances = np.zeros((len(adapters), len(adapters)), np.float64)
    for row, adapter in enumerate(adapters):
        for column in range(row):
            norm = product_change_norm(adapter, start=adapters[column], scale=scale)
            distances[row, column] = distances[column, row] = norm**2
    return distances


def layers(tensors: Tensors) -> Iterator[str]:
    """Yield the prefix of every pair of LoRA factors."""
    for name in tensors:
        if name.endswith(_DOWN) and name.removesuffix(_DOWN) + _UP in tensors:
            yield name.removesuffix(_DOWN)


def _triangle(matrix: Matrix) -> NDArray[np.float64]:
    """Return R of the thin QR decomposition."""
    triangle: NDArray[np.float64] = np.linalg.qr(matrix.astype(np.float64)).R
    return triangle
