"""From logits to the distribution a request asks for, and the noise that samples it.

A token is sampled by a race: every token x gets an exponential time E(x), and the one with the
largest p(x) / E(x) wins, with chance p(x). Equivalent to the largest log p(x) + Gumbel noise.

Shape letters: N rows, V vocabulary.
"""

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
    "SamplingParams",
    "TokenLogprobs",
    "choices",
    "distribution",
    "greedy_ids",
    "probabilities",
    "race_times",
    "raced",
    "raw_logprobs",
]

_SHORTEST_TIME = 1e-300
"""Stands for a time that came out as 0, of which nothing can be divided."""
_USUAL_TOP_P_TOKENS = 256
"""Likeliest tokens among which top-p usually ends; sorting a whole vocabulary is slow."""


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


def race_times(seed: int, position: int, vocabulary_size: int) -> Tensor:
    """Return the times of all tokens in the race for a place of a seeded text, float64. Shape: (V,).

    Independent, exponential, above 0. Counter-based, so that they depend on nothing but the
    arguments: not on what runs beside the text, nor on what was drafted.

    Args:
        seed: The request's seed, at least 0.
        position: Index of the token in its sequence, prompt included.
        vocabulary_size: Tokens; the same times come first for fewer.
    """
    # The generator counts up the lowest word; each position has its own in the second.
    bits = np.random.Philox(key=seed % 2**64, counter=[0, position, 0, 0])
    times = np.random.Generator(bits).standard_exponential(vocabulary_size)
    return torch.from_numpy(times).clamp_min_(_SHORTEST_TIME)


def choices(logits_NV: Tensor, params: SamplingParams, times: Sequence[Tensor]) -> list[int]:
    """Return the choice at each row of `processed` logits: the likeliest token, or the race's.

    Args:
        logits_NV: Processed; finite or -inf, with a finite one in each row. Shape: (N, V).
        params: The request's.
        times: `race_times` of each row's next token, unused where greedy. N times (V,).
    """
    if params.is_greedy:
        return [int(i) for i in logits_NV.argmax(-1).tolist()]
    speeds_NV = probabilities(logits_NV, params).cpu().double()
    return [int(i) for i in speeds_NV.div_(torch.stack(list(times))).argmax(-1).tolist()]


def raced(logits_NV: Tensor, params: SamplingParams, times: Sequence[Tensor]) -> Tensor:
    """Return log-probabilities with the race's noise: `choices` are the largest. Shape: (N, V).

    What a beam of likeliest continuations ranks by, so that it holds likely winners.
    """
    if params.is_greedy:
        return logits_NV.log_softmax(-1)
    speeds_NV = probabilities(logits_NV, params).double()
    return (speeds_NV / torch.stack(list(times)).to(speeds_NV.device)).log().log_softmax(-1).float()


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
