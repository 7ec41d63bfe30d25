"""Everything that changes the logits of a row before a token is chosen, greedy or not.

The order is fixed: repetition, frequency and presence penalty, logit bias, banned ids, ends before
`min_tokens`, grammar. Each row is processed with the tokens that stand before that very row: the
sequence's own and the drafted path down to it. Target and draft go through the same function.

vLLM adds the bias before the penalties; the two orders differ only where a biased id is also
repeated and the repetition penalty is on. Here the bias is what the request says, unscaled.

Shape letters: N rows of one sequence, I ids that came before any of the rows, V vocabulary.

Source: Keskar et al. 2019, CTRL, section 4.1, and vLLM 0.22, `vllm.v1.sample.sampler`, for the
repetition penalty over prompt and answer; OpenAI's API reference for the others, over the answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from serving.engine.sampling_params import SamplingParams

_LARGEST_FACTOR = 1e20
"""Repetition penalties beyond it, or below its inverse, count as it: float32 logits stay finite, at
the lowest temperature too."""


class TokenHistory:
    """What the processors know of a sequence; taking in a token costs the same at any length."""

    def __init__(self, prompt: Iterable[int], *, end_ids: Iterable[int] = ()) -> None:
        """Start behind the prompt; `end_ids` are all ids that end the text."""
        self.end_ids = sorted(set(end_ids))
        self.num_generated = 0
        # Ids of the prompt come first, each once; then those only the answer holds.
        self.places = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        self.num_prompt_ids = len(self.places)
        self.counts = [0] * self.num_prompt_ids
        """How often the answer holds each id of `places`."""

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in generated tokens."""
        for token in tokens:
            self.num_generated += 1
            place = self.places.setdefault(token, len(self.counts))
            if place == len(self.counts):
                self.counts.append(0)
            self.counts[place] += 1


@dataclass(frozen=True, slots=True)
class RowHistories:
    """What stands before each row of logits of one sequence."""

    history: TokenHistory
    paths: Sequence[Sequence[int]]
    """Drafted tokens behind the history, down to each row; `DraftTree.row_paths`. Length: N."""
    allowed_NV: Tensor | None = None
    """Ids that a grammar allows behind each row, boolean; None allows all. Shape: (N, V)."""


def processed(
    logits_NV: Tensor, params: SamplingParams, histories: RowHistories | None = None
) -> Tensor:
    """Return the logits that tokens are chosen from, float32; the same tensor if nothing applies.

    Args:
        logits_NV: The model's. Shape: (N, V).
        params: The request's.
        histories: Needed where `params.reads_history`, or for a grammar. The grammar goes first:
            where bans would leave nothing of what it allows, they give way.
    """
    assert histories is not None or not params.reads_history, "the caller knows its rows' tokens"
    has_mask = histories is not None and histories.allowed_NV is not None
    has_bans = bool(params.bad_token_ids) or params.min_tokens > 0
    logits = logits_NV.float()
    if (params.has_penalties or params.logit_bias) and logits is logits_NV:
        logits = logits.clone()
    if params.has_penalties and histories is not None:
        _penalise(logits, params, histories)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        logits[:, ids] += torch.tensor(list(params.logit_bias.values()), device=logits.device)
    if has_mask or has_bans:
        logits = logits.masked_fill(~_allowed(logits, params, histories), -torch.inf)
    return logits


def _penalise(logits_NV: Tensor, params: SamplingParams, histories: RowHistories) -> None:
    """Apply the three penalties in place."""
    history = histories.history
    places = dict(history.places)
    for path in histories.paths:
        for token in path:
            places.setdefault(token, len(places))
    counts = history.counts + [0] * (len(places) - len(history.counts))
    counts_NI = torch.tensor(counts, dtype=torch.float32).repeat(len(histories.paths), 1)
    for row, path in enumerate(histories.paths):
        for token in path:
            counts_NI[row, places[token]] += 1
    counts_NI = counts_NI.to(logits_NV.device)
    ids_I = torch.tensor(list(places), dtype=torch.long, device=logits_NV.device)
    values_NI = logits_NV[:, ids_I]
    generated_NI = counts_NI > 0
    if params.repetition_penalty != 1:
        seen_NI = generated_NI.clone()
        seen_NI[:, : history.num_prompt_ids] = True
        factor = min(max(params.repetition_penalty, 1 / _LARGEST_FACTOR), _LARGEST_FACTOR)
        scaled_NI = torch.where(values_NI > 0, values_NI / factor, values_NI * factor)
        values_NI = torch.where(seen_NI, scaled_NI, values_NI)
    values_NI -= params.frequency_penalty * counts_NI + params.presence_penalty * generated_NI
    logits_NV[:, ids_I] = values_NI


def _allowed(logits_NV: Tensor, params: SamplingParams, histories: RowHistories | None) -> Tensor:
    """Return which ids neither a ban nor the grammar rules out. Shape: (N, V)."""
    grammar_NV = None if histories is None else histories.allowed_NV
    if grammar_NV is None:
        allowed_NV = torch.ones_like(logits_NV, dtype=torch.bool)
    else:
        allowed_NV = grammar_NV.to(logits_NV.device, copy=True)
    allowed_NV[:, list(params.bad_token_ids)] = False
    if params.min_tokens and histories is not None and histories.history.end_ids:
        generated = histories.history.num_generated
        early = [generated + len(path) < params.min_tokens for path in histories.paths]
        ends_V = torch.zeros(logits_NV.shape[-1], dtype=torch.bool)
        ends_V[histories.history.end_ids] = True
        barred_NV = torch.tensor(early)[:, None] & ends_V
        allowed_NV &= ~barred_NV.to(logits_NV.device)
    if grammar_NV is not None:
        empty_N1 = ~allowed_NV.any(-1, keepdim=True)
        allowed_NV |= empty_N1 & grammar_NV.to(logits_NV.device)
    return allowed_NV
