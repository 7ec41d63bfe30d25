"""FedProx: local training is held near the adapter it began with.

The loss gains mu / 2 * ||w - w_start||^2 over the adapter's tensors, the norm squared: its gradient is
linear. The term is left out of the loss that is reported.

Source: Li et al. 2020 (arXiv 1812.06127), the local subproblem.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def proximal_gradient(weights: Tensor, start: Tensor, *, mu: float) -> Tensor:
    """Return the term's gradient, mu * (weights - start), in the shape of `weights`."""
    return mu * (weights - start)


@torch.no_grad()
def add_proximal_gradients(
    parameters: Iterable[Tensor], starts: Iterable[Tensor], *, mu: float
) -> None:
    """Add the term's gradient to each parameter's own, in place; those without one are left."""
    for parameter, start in zip(parameters, starts, strict=True):
        if parameter.grad is not None:
            parameter.grad += proximal_gradient(parameter, start, mu=mu)
