"""From logits to the distribution a request asks for, and the noise that samples it.

Shape letters: N rows, V vocabulary.
"""

import enum

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from planner.config import StrictModel

GREEDY_BELOW = 1e-5
"""Temperatures below are greedy, as in vLLM: dividing by them would overflow."""


class SamplingParams(StrictModel):
    """How tokens are chosen. Processors apply in the order temperature, top-k, top-p."""

    temperature: float = Field(default=1.0, ge=0, le=2)
    """0, and anything below 1e-5, is greedy: the likeliest token, the lowest id among equals."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Keep the likeliest tokens whose probabilities reach this sum; 1 keeps all."""
    top_k: int = Field(default=0, ge=0)
    """Keep the k likeliest tokens; 0 keeps all."""
    max_tokens: int = Field(gt=0)
    """Most tokens to generate."""
    ignore_eos: bool = False
    """Go on after an end-of-text token, for measurements."""

    @property
    def is_greedy(self) -> bool:
        """Whether the output is a function of the logits alone."""
        return self.temperature < GREEDY_BELOW


class Purpose(enum.IntEnum):
    """What a random number is for; each purpose has its own stream at every position."""

    DRAFT = 0
    ACCEPT = 1
    EMIT = 2


def distribution(logits_NV: Tensor, params: SamplingParams) -> Tensor:
    """Return the probabilities of each row after every processor, float32. Shape: (N, V).

    One function for target and draft, so that what the draft draws is what the target tests.
    """
    scaled_NV = logits_NV.float() / params.temperature
    if 0 < params.top_k < scaled_NV.shape[-1]:
        threshold_N1 = scaled_NV.topk(params.top_k, dim=-1).values[:, -1:]
        scaled_NV = scaled_NV.masked_fill(scaled_NV < threshold_N1, -torch.inf)
    probs_NV = scaled_NV.softmax(-1)
    if params.top_p < 1:
        probs_NV = _keep_top_p(probs_NV, params.top_p)
    return probs_NV


def _keep_top_p(probs_NV: Tensor, top_p: float) -> Tensor:
    sorted_NV, order_NV = torch.sort(probs_NV, dim=-1, descending=True, stable=True)
    # A token stays while the mass before it is below top_p; the likeliest always stays, also
    # where top_p is 0 in float32.
    dropped_NV = sorted_NV.cumsum(-1) - sorted_NV >= top_p
    dropped_NV[..., 0] = False
    sorted_NV = sorted_NV.masked_fill(dropped_NV, 0.0)
    kept_NV = torch.zeros_like(probs_NV).scatter(-1, order_NV, sorted_NV)
    return kept_NV / kept_NV.sum(-1, keepdim=True)


def uniform(seed: int, position: int, purpose: Purpose) -> float:
    """Return the draw from [0, 1) that belongs to a position of a seeded sequence.

    Counter-based, so that it does not depend on what runs beside the sequence or on how many
    tokens were drafted. A draw at a position may be read again in a later round only when nothing
    that was emitted depended on it: drafts behind a rejection are never looked at.

    Args:
        seed: The request's seed, at least 0.
        position: Index of the token in its sequence, prompt included.
        purpose: What the draw decides.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[position, int(purpose), 0, 0])
    return (int(bits.random_raw()) >> 11) * 2.0**-53
