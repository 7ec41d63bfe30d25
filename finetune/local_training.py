"""One client's work: train the adapter on its text, judge an adapter on its held-out text.

Shape suffixes: S sequences, L tokens of a sequence and the one after it, V vocabulary entries.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional

from finetune.aggregation import STRATEGIES
from finetune.base_model import BaseModel
from finetune.client_texts import ClientTexts
from finetune.config import JobConfig
from finetune.errors import ClientDataError
from finetune.factors import common_rank, is_down, resized
from finetune.lora import read_tensors, write_tensors
from finetune.proximal import add_proximal_gradients
from finetune.token_windows import (
    Tokens,
    held_out_windows,
    num_windows,
    round_generator,
    token_stream,
    training_batches,
)
from finetune.updates import Tensors

MOST_GRADIENT_NORM = 1.0
"""Longer gradients are scaled down to this norm, over all adapter tensors together."""

OnStep = Callable[[int, float], None]
"""Told after each local step the round, from 1, and the step's loss."""


class LocalTrainer:
    """One client's model and tokens.

    Clients in one process may share a model: each call sets the adapter before it uses it. Nothing
    else carries over from call to call, so the outcome depends on the arguments alone.
    """

    def __init__(
        self, model: PeftModel, base: BaseModel, texts: ClientTexts, job: JobConfig, on_step: OnStep
    ) -> None:
        """Tokenise the client's text.

        Raises:
            ClientDataError: If the text does not fill one training sequence.
        """
        self._model = model
        self._client = texts.client
        self._job = job
        self._rank = job.client_ranks[texts.client]
        self._on_step = on_step
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
        write_tensors(self._model, resized(resized(tensors, rank), self._job.rank))
        generator = round_generator(self._job.seed, client=self._client, round_number=round_number)
        batches = training_batches(
            self._training,
            sequence_tokens=self._job.sequence_tokens,
            batch_size=self._job.batch_size,
            num_steps=self._job.local_steps if num_steps is None else num_steps,
            generator=generator,
        )
        self._model.train()
        optimiser = self._optimiser()
        weights = optimiser.param_groups[0]["params"]
        starts = [weight.detach().clone() for weight in weights] if self._job.proximal_mu else []
        with _own_random_state(int(generator.integers(1 << 63))):
            losses = [self._step(optimiser, starts, batch_SL, round_number) for batch_SL in batches]
        return self._trained_tensors(rank), float(np.mean(losses))

    def evaluate(self, tensors: Tensors) -> tuple[float, int]:
        """Return the loss on the held-out sequences, nats a token, and the tokens scored."""
        write_tensors(self._model, resized(tensors, self._job.rank))
        self._model.eval()
        total, num_tokens = 0.0, self._held_out_SL[:, 1:].size
        for start in range(0, len(self._held_out_SL), self._job.batch_size):
            batch_SL = self._held_out_SL[start : start + self._job.batch_size]
            with torch.inference_mode():
                total += self._loss(batch_SL, reduction="sum").item()
        return total / num_tokens, num_tokens

    def _trained_tensors(self, rank: int) -> dict[str, NDArray[np.float32]]:
        tensors = resized(read_tensors(self._model), rank)
        if not self._is_down_frozen:
            return tensors
        return {name: tensor for name, tensor in tensors.items() if not is_down(name)}

    def _optimiser(self) -> torch.optim.Optimizer:
        parameters = [p for p in self._model.parameters() if p.requires_grad]
        return torch.optim.AdamW(parameters, lr=self._job.learning_rate, weight_decay=0.0)

    def _step(
        self,
        optimiser: torch.optim.Optimizer,
        starts: list[Tensor],
        batch_SL: Tokens,
        round_number: int,
    ) -> float:
        loss = self._loss(batch_SL, reduction="mean")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        weights = optimiser.param_groups[0]["params"]
        if starts:
            add_proximal_gradients(weights, starts, mu=self._job.proximal_mu)
        nn.utils.clip_grad_norm_(weights, MOST_GRADIENT_NORM)
        optimiser.step()
        value = loss.item()
        self._on_step(round_number, value)
        return value

    def _loss(self, batch_SL: Tokens, *, reduction: str) -> Tensor:
        ids_SL = torch.from_numpy(batch_SL)
        logits_SLV = self._model(input_ids=ids_SL[:, :-1], use_cache=False).logits
        return functional.cross_entropy(
            logits_SLV.float().flatten(0, 1), ids_SL[:, 1:].flatten(), reduction=reduction
        )


def _held_out(texts: ClientTexts, base: BaseModel, job: JobConfig) -> Tokens:
    tokens = token_stream(texts.held_out, base.encode)
    if len(tokens) < 2:
        raise ClientDataError(
            texts.client, f"{len(tokens)} held-out tokens cannot be scored; add longer documents"
        )
    return held_out_windows(
        tokens, sequence_tokens=job.sequence_tokens, most_tokens=job.held_out_tokens
    )


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Give dropout in the base model, where there is any, a generator of this round's own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
