"""Optimiser steps on an adapter by the processes of one client, all of which hold all of it.

Shape suffixes: S sequences, L tokens of a sequence and the one after it.
"""

import torch
from peft import PeftModel

from finetune.config import JobConfig
from finetune.optimisation import MOST_GRADIENT_NORM, adam
from finetune.proximal import add_proximal_gradients
from finetune.sequence_parallel.step import SequenceParallelStep
from finetune.token_windows import Tokens
from planner.training.training_plan import BatchPlan


class SharedOptimisation:
    """One round's steps, from the adapter that the model holds at the beginning.

    Every process of the client takes the same steps, and has the same adapter after each.
    """

    def __init__(self, model: PeftModel, job: JobConfig, step: SequenceParallelStep) -> None:
        """Begin with an optimiser that remembers nothing."""
        self._step = step
        self._mu = job.proximal_mu
        self._weights = [p for p in model.parameters() if p.requires_grad]
        self._optimiser = adam(self._weights, job)
        self._starts = [weight.detach().clone() for weight in self._weights] if self._mu else []

    def step(self, batch_SL: Tokens, plan: BatchPlan) -> float:
        """Take one step and return the loss before it, nats a token.

        Raises:
            SequenceParallelError: If the plan does not fit the batch or the processes.
        """
        loss = self._step.accumulate(plan, list(batch_SL)).loss
        if self._starts:
            add_proximal_gradients(self._weights, self._starts, mu=self._mu)
        torch.nn.utils.clip_grad_norm_(self._weights, MOST_GRADIENT_NORM)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return loss
