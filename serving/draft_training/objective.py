"""What a head is trained towards: the target's features, and what the target's head reads in them.

Shape letters: B sequences, N rows, E the target's hidden size, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional

NOISE_TOKENS = 512
"""Sequence length at which the noise has its full width."""


def feature_noise(shape: tuple[int, ...], *, width: float, generator: torch.Generator) -> Tensor:
    """Return uniform noise for features of that shape, (B, N, E), narrower on longer sequences.

    (U(0, 1) - 0.5) times `width` times 512 / N: what Dovetail inherits from EAGLE's training.
    """
    centred = torch.rand(shape, generator=generator) - 0.5
    return centred * (width * NOISE_TOKENS / shape[1])


def feature_loss(predicted: Tensor, true: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over wanted rows of SmoothL1, itself a mean over E.

    Args:
        predicted: The head's features. Shape: (B, N, E).
        true: The target's. Shape: (B, N, E).
        mask: 1 for rows that count, 0 for others. Shape: (B, N).
    """
    by_row = functional.smooth_l1_loss(predicted.float(), true.float(), reduction="none").mean(-1)
    return masked_mean(by_row, mask)


def token_loss(predicted_logits: Tensor, true_probs: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over wanted rows of the cross-entropy from the target's law to the head's.

    Args:
        predicted_logits: The frozen head on predicted features. Shape: (B, N, V).
        true_probs: What the frozen head says on true features. Shape: (B, N, V).
        mask: As of `feature_loss`. Shape: (B, N).
    """
    by_row = -(true_probs * predicted_logits.float().log_softmax(-1)).sum(-1)
    return masked_mean(by_row, mask)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of the values where the mask is 1; 0 where it is 1 nowhere."""
    weights = mask.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)
