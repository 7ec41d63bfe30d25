"""The training loop of the tiny family: Muon for matrices, AdamW for the rest, resumable."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from serving.tiny.batches import Batches
from serving.tiny.recipe import Schedule

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 180.0
"""Time between checkpoints."""

LossFunction = Callable[[Tensor], Tensor]
"""Token ids, shape (sequences, length + 1), to a scalar loss in nats a token."""

Optimisers = list[tuple[torch.optim.Optimizer, float]]
"""Each optimiser with its full learning rate."""

Progress = Callable[[int, int, float], None]
"""Called after each step with the steps done, the steps in all and the loss."""


def autocast() -> torch.autocast:
    """Return bfloat16 autocast where this CPU multiplies bfloat16 natively, else a no-op."""
    has_native_bfloat16 = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast("cpu", torch.bfloat16, enabled=has_native_bfloat16)


def initialise(model: PreTrainedModel) -> None:
    """Set the projections that write into the residual stream to zero.

    Each block then starts as the identity, which lets deep thin models train at a high rate.
    """
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.zeros_(parameter)


def train(
    model: PreTrainedModel,
    batches: Batches,
    schedule: Schedule,
    *,
    loss_of: LossFunction,
    checkpoint: Path,
    progress: Progress,
) -> None:
    """Train `model` in place for `schedule.num_steps`, from `checkpoint` where one exists.

    A checkpoint holds weights, optimiser state and step. It may be continued under a schedule with
    another number of steps as long as it stands before the falling part of both.

    Args:
        model: Trained in place; left in training mode.
        batches: The text.
        schedule: Steps and rates.
        loss_of: Loss of one batch; sees the same `model`.
        checkpoint: File to resume from and to write every three minutes and at the end.
        progress: Told of every step.
    """
    optimisers = _optimisers(model, schedule)
    step = _restore(checkpoint, model, optimisers)
    model.train()
    last_saved = time.monotonic()
    while step < schedule.num_steps:
        for optimiser, full_rate in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = full_rate * schedule.rate_fraction(step)
        ids = batches.at(step, schedule, long_tokens=model.config.max_position_embeddings)
        loss = _update(model, optimisers, loss_of, ids)
        step += 1
        progress(step, schedule.num_steps, loss)
        is_decay_next = step == schedule.decay_start
        if is_decay_next or time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            _save(checkpoint, model, optimisers, step)
            if is_decay_next:
                _save(checkpoint.with_suffix(".stable.pt"), model, optimisers, step)
            last_saved = time.monotonic()
    _save(checkpoint, model, optimisers, step)


def _update(
    model: PreTrainedModel, optimisers: Optimisers, loss_of: LossFunction, ids: Tensor
) -> float:
    with autocast():
        loss = loss_of(ids)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser, _ in optimisers:
        optimiser.step()
        optimiser.zero_grad()
    return loss.item()


def _optimisers(model: PreTrainedModel, schedule: Schedule) -> Optimisers:
    both = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    ends = {id(module.weight) for module in both}
    hidden = [p for p in model.parameters() if p.ndim == 2 and id(p) not in ends]
    others = [p for p in model.parameters() if p.ndim != 2 or id(p) in ends]
    muon = torch.optim.Muon(
        hidden,
        lr=schedule.matrix_rate,
        weight_decay=schedule.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(others, lr=schedule.vector_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [(muon, schedule.matrix_rate), (adamw, schedule.vector_rate)]


def _save(
    path: Path,
    model: PreTrainedModel,
    optimisers: Optimisers,
    step: int,
) -> None:
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimisers": [optimiser.state_dict() for optimiser, _ in optimisers],
    }
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.replace(path)
    logger.info("checkpoint path=%s step=%d", path, step)


def _restore(path: Path, model: PreTrainedModel, optimisers: Optimisers) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for (optimiser, _), saved in zip(optimisers, state["optimisers"], strict=True):
        optimiser.load_state_dict(saved)
    logger.info("resumed path=%s step=%d", path, state["step"])
    return int(state["step"])
