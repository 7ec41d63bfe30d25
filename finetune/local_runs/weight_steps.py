"""Optimiser steps on summed gradients: the bound on their norm, the warm-up, AdamW in float32."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.trained_model import trained_weights
from finetune.optimisation import MOST_GRADIENT_NORM


class WeightSteps:
    """AdamW on what is trained; each rank steps the weights, or shares of weights, that it holds."""

    def __init__(self, model: nn.Module, job: LocalJob) -> None:
        """Begin with moments of zero, after the model is where it trains."""
        self._weights = dict(trained_weights(model))
        self._rate, self._warmup_steps = job.learning_rate, job.warmup_steps
        self.optimiser = torch.optim.AdamW(
            self._weights.values(), lr=job.learning_rate, weight_decay=0.0
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        return self._rate * min(1.0, (step + 1) / (self._warmup_steps + 1))

    def take(self, step: int) -> float:
        """Take a step, from 0, along the gradients; return their norm before it was bounded."""
        norm = self._bound()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        self.optimiser.step()
        self.optimiser.zero_grad()
        return norm

    def _bound(self) -> float:
        """Bound the gradients' norm over all weights and all ranks' shares."""
        weights = [weight for weight in self._weights.values() if weight.grad is not None]
        # Norms of shares are to be added up over ranks, those of whole tensors are not.
        shares: list[nn.Parameter] = [weight for weight in weights if isinstance(weight, DTensor)]
        others = [weight for weight in weights if not isinstance(weight, DTensor)]
        total = torch.stack([_norm(part) for part in (shares, others) if part]).norm()
        clip_grads_with_norm_(weights, MOST_GRADIENT_NORM, total)
        return float(total.item())


def _norm(weights: list[nn.Parameter]) -> Tensor:
    norm = get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
