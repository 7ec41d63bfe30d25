"""FedStale: the last change of every client stands in for it while it is absent.

With h the remembered changes (0 before a client's first), d the fresh ones, q the clients' shares of
all examples, S those present and p the chance of being present, the mean change is

    beta * sum over all of q h  +  sum over S of q (d - beta h) / p

beta 0 is FedAvg over those present, beta 1 is FedVARP. Memory is one adapter for each client.

Source: Rodio, Neglia 2024 (arXiv 2405.04171), with examples as weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.updates import Tensors

SEPARATOR = "/"
"""Between client and tensor in the name of a saved array; clients' names hold none."""


def mix(
    fresh: Mapping[str, Tensors],
    remembered: Mapping[str, Tensors],
    num_examples: Mapping[str, int],
    *,
    beta: float,
    presence: Mapping[str, float] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return the mean change of all clients, in float64.

    Args:
        fresh: Changes of those present; at least one.
        remembered: Last changes; a client that is missing has none.
        num_examples: Of every client, present or not.
        beta: How far absent clients' changes are believed, 0 to 1.
        presence: Chance above 0 that a client is present; None takes the share of the examples that
            is present this time.

    Raises:
        ValueError: If nobody is present or `beta` is not between 0 and 1.
    """
    if not fresh:
        raise ValueError("no change to mix; give at least one")
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; choose 0 (FedAvg) to 1 (FedVARP)")
    total = sum(num_examples.values())
    share = sum(num_examples[client] for client in fresh) / total
    shapes = next(iter(fresh.values()))
    mean = {name: np.zeros(tensor.shape, np.float64) for name, tensor in shapes.items()}

    def add(tensors: Tensors, weight: float) -> None:
        for name, tensor in tensors.items():
            mean[name] += np.multiply(weight, tensor, dtype=np.float64)

    for client in sorted(remembered):  # an order that a checkpoint keeps
        add(remembered[client], beta * num_examples[client] / total)
    for client, change in fresh.items():
        weight = num_examples[client] / total / (presence[client] if presence else share)
        add(change, weight)
        add(remembered.get(client, {}), -beta * weight)
    return mean


@dataclass(slots=True)
class StaleMemory:
    """Each client's last change.

    Attributes:
        changes: By client.
    """

    changes: dict[str, Tensors] = field(default_factory=dict)

    def remember(self, fresh: Mapping[str, Tensors]) -> None:
        """Keep these in place of the same clients' earlier ones."""
        self.changes.update(fresh)

    def forget(self) -> None:
        """Drop everything, as after a change of basis, which the remembered changes do not share."""
        self.changes.clear()

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return one array for each client and tensor, for a checkpoint."""
        return {
            f"{client}{SEPARATOR}{name}": tensor
            for client, tensors in self.changes.items()
            for name, tensor in tensors.items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> "StaleMemory":
        """Return the memory that `to_arrays` wrote."""
        changes: dict[str, dict[str, NDArray[np.float32]]] = {}
        for key, tensor in arrays.items():
            client, _, name = key.partition(SEPARATOR)
            changes.setdefault(client, {})[name] = tensor
        return cls(dict(changes))
