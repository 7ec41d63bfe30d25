"""From logits to the distribution a request asks for, and the noise that samples it.

Shape letters: N rows, V vocabulary.
"""

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.processors import RowHistories, processed
from serving.engine.sampling_params import GREEDY_BELOW, SamplingParams

__all__ = [
    "GREEDY_BELOW",
    "Purpose",
    "SamplingParams",
    "TokenLogprobs",
    "distribution",
    "greedy_ids",
    "probabilities",
    "raw_logprobs",
    "uniform",
]

_USUAL_TOP_P_TOKENS = 256
"""Likeliest tokens among which top-p usually ends; sorting a whole vocabulary is slow."""


class Purpose(enum.IntEnum):
    """What a random number is for; each purpose has its own stream at every position."""

    DRAFT = 0
    ACCEPT = 1
    EMIT = 2


class TokenLogprobs(NamedTuple):
    """Log-probabilities at one position, as clients see them."""

    logprob: float
    """Of the emitted token."""
    rank: int
    """1 for the likeliest token; equals share the better rank."""
    top: tuple[tuple[int, float], ...]
    """The likeliest ids and their log-probabilities, best first."""


def distribution(
    logits_NV: Tensor, params: SamplingParams, histories: RowHistories | None = None
) -> Tensor:
    """Return the probabilities of each row after every processor, float32. Shape: (N, V).

    Those of `processed` first, then temperature, top-k, top-p, min-p. Tokens as likely as the last
    one kept are kept too, so that the result does not depend on an order among equals. Greedy
    parameters give all probability to the choice of `greedy_ids`.

    One function for target and draft, so that what the draft draws is what the target tests.
    """
    return probabilities(processed(logits_NV, params, histories), params)


def probabilities(logits_NV: Tensor, params: SamplingParams) -> Tensor:
    """Return the probabilities of `processed` logits: what `distribution` does behind them."""
    if params.is_greedy:
        return functional.one_hot(logits_NV.argmax(-1), logits_NV.shape[-1]).float()
    if params.temperature != 1:
        logits_NV = logits_NV / params.temperature
    if 0 < params.top_k < logits_NV.shape[-1]:
        threshold_N1 = logits_NV.topk(params.top_k, dim=-1).values[:, -1:]
        logits_NV = logits_NV.masked_fill(logits_NV < threshold_N1, -torch.inf)
    probs_NV = logits_NV.softmax(-1)
    if params.top_p < 1:
        probs_NV = _keep_from(probs_NV, _top_p_threshold(probs_NV, params.top_p))
    if params.min_p > 0:
        probs_NV = _keep_from(probs_NV, params.min_p * probs_NV.amax(-1, keepdim=True))
    return probs_NV


def greedy_ids(
    logits_NV: Tensor, params: SamplingParams, histories: RowHistories | None = None
) -> list[int]:
    """Return the likeliest id of each row after `processed`, the lowest among equals."""
    return [int(i) for i in processed(logits_NV, params, histories).argmax(-1).tolist()]


def raw_logprobs(
    logits_NV: Tensor, token_ids: Sequence[int], *, num_top: int
) -> list[TokenLogprobs]:
    """Return what clients see of each row: log-probabilities of the model before any processor.

    As vLLM's default `logprobs_mode="raw_logprobs"` (`vllm.v1.sample.sampler`, step 1).

    Args:
        logits_NV: The target's own logits. Shape: (N, V).
        token_ids: The emitted token of each row. Length: N.
        num_top: Likeliest tokens to list.
    """
    log_probs_NV = logits_NV.float().log_softmax(-1)
    chosen_N1 = log_probs_NV.gather(-1, torch.tensor(token_ids, device=logits_NV.device)[:, None])
    ranks = ((log_probs_NV > chosen_N1).sum(-1) + 1).tolist()
    values, ids = log_probs_NV.topk(min(num_top, logits_NV.shape[-1]), dim=-1)
    return [
        TokenLogprobs(logprob, rank, tuple(zip(row_ids, row_values, strict=True)))
        for logprob, rank, row_ids, row_values in zip(
            chosen_N1[:, 0].tolist(), ranks, ids.tolist(), values.tolist(), strict=True
        )
    ]


def uniform(seed: int, position: int, purpose: Purpose, index: int = 0) -> float:
    """Return the draw from [0, 1) that belongs to a position of a seeded sequence.

    Counter-based, so that it does not depend on what runs beside the sequence or on how many
    tokens were drafted. A draw at a position may be read again in a later round only when nothing
    that was emitted depended on it: drafts behind a rejection are never looked at.

    Args:
        seed: The request's seed, at least 0.
        position: Index of the token in its sequence, prompt included.
        purpose: What the draw decides.
        index: Which of several draws for one purpose: the order among siblings of a tree. Nodes of
            different parents may share a draw, since only one of the parents is ever reached.
    """
    bits = np.random.Philox(key=seed % 2**64, counter=[position, int(purpose), index, 0])
    return (int(bits.random_raw()) >> 11) * 2.0**-53


def _top_p_threshold(probs_NV: Tensor, top_p: float) -> Tensor:
    """Return the least probability among the fewest tokens that reach the mass. Shape: (N, 1)."""
    vocabulary_size = probs_NV.shape[-1]
    count = min(_USUAL_TOP_P_TOKENS, vocabulary_size)
    while True:
        values = probs_NV.topk(count, dim=-1).values.double()
        is_kept = values.cumsum(-1) - values < top_p
        if count == vocabulary_size or not bool(is_kept[:, -1].any()):
            break
        count = min(16 * count, vocabulary_size)
    return values.masked_fill(~is_kept, torch.inf).amin(-1, keepdim=True).to(probs_NV.dtype)


def _keep_from(probs_NV: Tensor, threshold_N1: Tensor) -> Tensor:
    """Drop what is less likely than each row's threshold, and renormalise."""
    kept_NV = probs_NV.masked_fill(probs_NV < threshold_N1, 0.0)
    return kept_NV / kept_NV.sum(-1, keepdim=True)
