"""Optimiser steps on an adapter: loss, gradients, their bounds, accelerate around them.

Shape suffixes: S sequences, L tokens of a sequence and the one after it, V vocabulary entries.
"""

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional

from finetune.acceleration import make_accelerator
from finetune.config import JobConfig
from finetune.proximal import add_proximal_gradients
from finetune.token_windows import Tokens

logger = logging.getLogger(__name__)

MOST_GRADIENT_NORM = 1.0
"""Longer gradients are scaled down to this norm, over all adapter tensors together."""

MOST_OVERFLOWS = 24
"""Times that a float16 step is tried, each at half the scale of the last, from 65536 to 1/128."""


class AdapterOptimisation:
    """One client's steps in one round, from the adapter that the model holds at the beginning.

    Attributes:
        device: Where the model is.
        num_overflows: Tries that float16 could not hold and that were repeated.
    """

    def __init__(self, model: PeftModel, job: JobConfig) -> None:
        """Begin with an optimiser that remembers nothing.

        Raises:
            DeviceError: If the machine cannot train as the job says.
        """
        self._accelerator = make_accelerator(job.local_training)
        self.device: torch.device = self._accelerator.device
        self.num_overflows = 0
        self._num_parts = job.local_training.gradient_accumulation_steps
        self._mu = job.proximal_mu
        self._weights = [p for p in model.parameters() if p.requires_grad]
        optimiser = adam(self._weights, job)
        optimiser.zero_grad()  # a step that was broken off may have left gradients
        self._model, self._optimiser = self._accelerator.prepare(model, optimiser)
        self._starts = [weight.detach().clone() for weight in self._weights] if self._mu else []

    def step(self, batch_SL: Tokens) -> float:
        """Take one step and return the loss before it, nats a token.

        In float16 the loss is scaled, and a step whose gradients overflow is taken again at half
        the scale: a round has few steps, and none of them shall go to finding the scale.
        """
        for _ in range(MOST_OVERFLOWS):
            loss = self._try_step(batch_SL)
            if not self._optimiser.step_was_skipped or not math.isfinite(loss):
                return loss
            self.num_overflows += 1
        logger.warning("step not taken overflows=%d loss=%.4g", MOST_OVERFLOWS, loss)
        return loss

    def _try_step(self, batch_SL: Tokens) -> float:
        loss = 0.0
        for part_SL in np.split(batch_SL, self._num_parts):
            with self._accelerator.accumulate(self._model):
                part_loss = token_loss(self._model, part_SL, reduction="mean", device=self.device)
                self._accelerator.backward(part_loss)
                if self._accelerator.sync_gradients:
                    self._bound_gradients()
                self._optimiser.step()
                self._optimiser.zero_grad()
            loss += part_loss.item() / self._num_parts
        return loss

    def _bound_gradients(self) -> None:
        # Once only, and before anything is added; accelerate's own clipping would do it again.
        self._accelerator.unscale_gradients()
        if self._starts:
            add_proximal_gradients(self._weights, self._starts, mu=self._mu)
        nn.utils.clip_grad_norm_(self._weights, MOST_GRADIENT_NORM)


def adam(weights: Iterable[nn.Parameter], job: JobConfig) -> torch.optim.AdamW:
    """Return the optimiser of a round, which remembers nothing of earlier ones."""
    return torch.optim.AdamW(weights, lr=job.learning_rate, weight_decay=0.0)


def token_loss(
    model: nn.Module, batch_SL: Tokens, *, reduction: str, device: torch.device
) -> Tensor:
    """Return the loss of predicting each token from those before it, nats; mean or sum."""
    ids_SL = torch.from_numpy(batch_SL).to(device)
    output: Any = model(input_ids=ids_SL[:, :-1], use_cache=False)
    return functional.cross_entropy(
        output.logits.float().flatten(0, 1), ids_SL[:, 1:].flatten(), reduction=reduction
    )


@contextmanager
def own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Give dropout in the base model, where there is any, generators of this round's own."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
