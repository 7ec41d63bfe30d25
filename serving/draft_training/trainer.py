"""Trains a head on cached features; every step is a function of its number, so that it resumes.

Shape letters: B sequences, n tokens of the longest of them, E the target's hidden size.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from planner.errors import DocumentError
from serving.draft_training.features import Example, FeatureCache
from serving.draft_training.frozen import autocast
from serving.draft_training.objective import feature_loss, feature_noise, token_loss
from serving.draft_training.recipe import HeadRecipe
from serving.engine.dovetail_head import DovetailHead

logger = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 60.0
"""Time between checkpoints."""

TrainingProgress = Callable[[int, int, float], None]
"""Called after each step with the steps done, the steps in all and the loss."""


@dataclass(frozen=True, slots=True)
class FrozenEnds:
    """The target's embedding and head, on the training device. Shape: (V, E) each."""

    embedding: Tensor
    output_head: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Some sequences with their features, filled up to one length."""

    ids: Tensor
    """Shape: (B, n)."""
    mask: Tensor
    """1 where a feature is to be learnt; 0 in filled places. Shape: (B, n)."""
    features: Tensor
    """Shape: (B, n, E), float32."""


def batch_at(cache: FeatureCache, step: int, recipe: HeadRecipe, device: torch.device) -> Batch:
    """Return the sequences of `step`: each epoch is a new seeded order."""
    first = step * recipe.batch_sequences
    examples: list[Example] = []
    for number in range(first, first + recipe.batch_sequences):
        epoch, place = divmod(number, len(cache))
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(cache))
        examples.append(cache[int(order[place])])
    return Batch(
        ids=pad_sequence([example.ids for example in examples], batch_first=True).to(device),
        mask=pad_sequence([example.mask for example in examples], batch_first=True).to(device),
        features=pad_sequence(
            [example.features.float() for example in examples], batch_first=True
        ).to(device),
    )


def loss_of(
    head: DovetailHead,
    ends: FrozenEnds,
    batch: Batch,
    recipe: HeadRecipe,
    *,
    num_depths: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the loss of one batch, a mean over depths.

    Row i takes feature i, noise added, and token i + 1, and learns feature i + 1; at depth d its
    chain learns feature i + d.
    """
    inputs = batch.features[:, :-1]
    noise = feature_noise(tuple(inputs.shape), width=recipe.noise_width, generator=generator)
    true_probs = functional.linear(batch.features, ends.output_head).float().softmax(-1)
    embeddings = functional.embedding(batch.ids[:, 1:], ends.embedding)
    chains = head.unroll(inputs + noise.to(inputs.device), embeddings)
    losses = []
    for depth in range(1, min(num_depths, inputs.shape[1]) + 1):
        predicted = next(chains)
        mask = batch.mask[:, depth:]
        logits = functional.linear(predicted, ends.output_head)
        by_feature = feature_loss(predicted, batch.features[:, depth:], mask)
        by_token = token_loss(logits, true_probs[:, depth:], mask)
        losses.append(recipe.feature_weight * by_feature + recipe.token_weight * by_token)
    return torch.stack(losses).mean()


def train_head(
    head: DovetailHead,
    ends: FrozenEnds,
    cache: FeatureCache,
    recipe: HeadRecipe,
    *,
    checkpoint: Path,
    progress: TrainingProgress,
) -> float:
    """Train `head` in place, from `checkpoint` where there is one; return the seconds of all runs.

    A checkpoint may be continued to another number of steps as long as neither schedule has begun
    to lower the rate or to deepen the chains.

    Raises:
        DocumentError: If the checkpoint is of another recipe.
    """
    device = ends.embedding.device
    optimiser = torch.optim.AdamW(head.parameters(), lr=recipe.rate, betas=(0.9, 0.95))
    step, before = _restore(checkpoint, head, optimiser, recipe)
    start = last_saved = time.monotonic()
    while step < recipe.num_steps:
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * recipe.rate_fraction(step)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        batch = batch_at(cache, step, recipe, device)
        with autocast(device):
            loss = loss_of(
                head,
                ends,
                batch,
                recipe,
                num_depths=recipe.depths_at(step),
                generator=generator,
            )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_value_(head.parameters(), recipe.gradient_limit)
        optimiser.step()
        step += 1
        progress(step, recipe.num_steps, loss.item())
        if time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            last_saved = time.monotonic()
            _save(checkpoint, head, optimiser, recipe, step, before + last_saved - start)
    seconds = before + time.monotonic() - start
    _save(checkpoint, head, optimiser, recipe, step, seconds)
    return seconds


def _save(
    path: Path,
    head: DovetailHead,
    optimiser: torch.optim.Optimizer,
    recipe: HeadRecipe,
    step: int,
    seconds: float,
) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "recipe": recipe.model_dump_json(),
        "head_config": head.config.model_dump_json(),
        "head": head.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    temporary = path.with_suffix(".partial")
    torch.save(state, temporary)
    temporary.replace(path)
    logger.debug("checkpoint path=%s step=%d", path, step)


def _restore(
    path: Path, head: DovetailHead, optimiser: torch.optim.Optimizer, recipe: HeadRecipe
) -> tuple[int, float]:
    """Return the steps done and the seconds they took; (0, 0) without a checkpoint."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    try:
        made = HeadRecipe.model_validate_json(state["recipe"])
    except ValidationError:
        problem = "is of another version of this program; name another --work folder"
        raise DocumentError(path, problem) from None
    is_plain = state["step"] <= min(made.plain_steps, recipe.plain_steps)
    for name, value in recipe:
        if getattr(made, name) != value and not (name == "num_steps" and is_plain):
            raise DocumentError(
                path,
                f"was trained with {name} {getattr(made, name)}, not {value}; repeat that value, "
                "or name another --work folder",
            )
    if state["head_config"] != head.config.model_dump_json():
        raise DocumentError(path, "is of a head for another target; name another --work folder")
    head.load_state_dict(state["head"])
    optimiser.load_state_dict(state["optimiser"])
    logger.info("resumed path=%s step=%d", path, state["step"])
    return int(state["step"]), float(state["seconds"])
