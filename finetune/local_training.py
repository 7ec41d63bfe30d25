"""One client's work: train the adapter on its text, judge an adapter on its held-out text.

Shape suffixes: S sequences, L tokens of a sequence and the one after it.
"""

import logging
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel

from finetune.acceleration import make_accelerator
from finetune.aggregation import STRATEGIES
from finetune.base_model import BaseModel
from finetune.client_group.client_group import ClientGroup
from finetune.client_texts import ClientTexts
from finetune.config import JobConfig
from finetune.errors import ClientDataError
from finetune.factors import common_rank, is_down, resized
from finetune.lora import read_tensors, write_tensors
from finetune.optimisation import AdapterOptimisation, own_random_state, token_loss
from finetune.token_windows import (
    Tokens,
    held_out_windows,
    num_windows,
    round_generator,
    token_stream,
    training_batches,
)
from finetune.updates import Tensors

logger = logging.getLogger(__name__)

OnStep = Callable[[int, float], None]
"""Told after each local step the round, from 1, and the step's loss."""


class LocalTrainer:
    """One client's model and tokens.

    Clients in one process may share a model: each call sets the adapter before it uses it. Nothing
    else carries over from call to call, so the outcome depends on the arguments alone.
    """

    def __init__(
        self,
        model: PeftModel,
        base: BaseModel,
        texts: ClientTexts,
        job: JobConfig,
        on_step: OnStep,
        group: ClientGroup | None = None,
    ) -> None:
        """Tokenise the client's text.

        With a group its processes take the steps together, this one among them.

        Raises:
            ClientDataError: If the text does not fill one training sequence.
            DeviceError: If this machine cannot train as the job says.
        """
        device = make_accelerator(job.local_training).device
        precision = job.local_training.precision
        logger.info(
            "local training client=%s device=%s precision=%s", texts.client, device, precision
        )
        self._model = model
        self._client = texts.client
        self._job = job
        self._rank = job.client_ranks[texts.client]
        self._on_step = on_step
        self._group = group
        self._is_down_frozen = STRATEGIES[job.aggregation].is_down_frozen
        self._training = token_stream(texts.training, base.encode)
        self._held_out_SL = _held_out(texts, base, job)
        self.num_examples = num_windows(self._training, job.sequence_tokens)
        if self.num_examples < 1:
            raise ClientDataError(
                texts.client,
                f"{len(self._training)} training tokens do not fill one sequence of "
                f"{job.sequence_tokens} and the token after it; add text or lower sequence_tokens",
            )

    def train(
        self, tensors: Tensors, *, round_number: int, num_steps: int | None = None
    ) -> tuple[Tensors, float]:
        """Return the adapter after local steps from `tensors`, and the mean loss.

        Where the job's aggregation freezes A, only B is trained and returned.

        Args:
            tensors: Adapter to start from; not changed. Of its components no more than the client's
                own rank are trained and returned; the model's others are zero, and stay so.
            round_number: Counts from 1; decides the batches.
            num_steps: Steps to take; None takes the job's.
        """
        rank = min(common_rank(tensors), self._rank)
        first = resized(resized(tensors, rank), self._job.rank)
        write_tensors(self._model, first)
        generator = round_generator(self._job.seed, client=self._client, round_number=round_number)
        batches = training_batches(
            self._training,
            sequence_tokens=self._job.sequence_tokens,
            batch_size=self._job.batch_size,
            num_steps=self._job.local_steps if num_steps is None else num_steps,
            generator=generator,
        )
        self._model.train()
        seed = int(generator.integers(1 << 63))

        def told(loss: float) -> None:
            self._on_step(round_number, loss)

        if self._group is not None:
            losses = self._group.train(first, list(batches), seed=seed, on_step=told)
        else:
            losses = self._steps_alone(batches, seed, round_number, told)
        return self._trained_tensors(rank), float(np.mean(losses))

    def _steps_alone(
        self,
        batches: Iterable[Tokens],
        seed: int,
        round_number: int,
        told: Callable[[float], None],
    ) -> list[float]:
        optimisation = AdapterOptimisation(self._model, self._job)
        losses = []
        with own_random_state(seed, optimisation.device):
            for batch_SL in batches:
                losses.append(optimisation.step(batch_SL))
                told(losses[-1])
        if optimisation.num_overflows:
            logger.info(
                "float16 steps repeated client=%s round=%d overflows=%d",
                self._client,
                round_number,
                optimisation.num_overflows,
            )
        return losses

    def evaluate(self, tensors: Tensors | None) -> tuple[float, int]:
        """Return the loss on the held-out sequences, nats a token, and the tokens scored.

        None judges the base model, as an adapter of zeros.
        """
        if tensors is None:
            tensors = {name: np.zeros_like(t) for name, t in read_tensors(self._model).items()}
        write_tensors(self._model, resized(tensors, self._job.rank))
        self._model.eval()
        accelerator = make_accelerator(self._job.local_training)
        model = accelerator.prepare(self._model)
        total, num_tokens = 0.0, self._held_out_SL[:, 1:].size
        for start in range(0, len(self._held_out_SL), self._job.batch_size):
            batch_SL = self._held_out_SL[start : start + self._job.batch_size]
            with torch.inference_mode():
                loss = token_loss(model, batch_SL, reduction="sum", device=accelerator.device)
                total += loss.item()
        return total / num_tokens, num_tokens

    def _trained_tensors(self, rank: int) -> dict[str, NDArray[np.float32]]:
        tensors = resized(read_tensors(self._model), rank)
        if not self._is_down_frozen:
            return tensors
        return {name: tensor for name, tensor in tensors.items() if not is_down(name)}


def _held_out(texts: ClientTexts, base: BaseModel, job: JobConfig) -> Tokens:
    tokens = token_stream(texts.held_out, base.encode)
    if len(tokens) < 2:
        raise ClientDataError(
            texts.client, f"{len(tokens)} held-out tokens cannot be scored; add longer documents"
        )
    return held_out_windows(
        tokens, sequence_tokens=job.sequence_tokens, most_tokens=job.held_out_tokens
    )
