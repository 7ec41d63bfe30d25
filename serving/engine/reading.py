"""What the target makes of a text that is given: log-probabilities of its tokens, pooled state.

Shape letters: N rows, V vocabulary, E features.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from serving.engine.adapters import Adapter
from serving.engine.kv_cache import SequenceCache
from serving.engine.model import TargetModel
from serving.engine.rows import Rows
from serving.engine.sampling import TokenLogprobs, raw_logprobs
from serving.errors import ContextLengthError, OverloadedError

_ROWS_AT_ONCE = 128
"""Logits of every row are made: more rows would take much memory with a large vocabulary."""


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """A text to read without answering it."""

    tokens: tuple[int, ...]
    adapter_name: str | None = None
    num_logprobs: int | None = None
    """Report each token's log-probability and this many likeliest ones; None reports none."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of a text."""

    pooled: tuple[float, ...]
    """Mean over its tokens of the last hidden states behind the final norm. Length: E."""
    logprobs: tuple[TokenLogprobs, ...]
    """Of the second token on, each from those before it; empty where none are asked for."""


@torch.inference_mode()
def read_tokens(
    target: TargetModel,
    cache: SequenceCache,
    request: ReadRequest,
    adapter: Adapter | None,
    *,
    most_tokens: int,
) -> Reading:
    """Run the target over a whole text; `cache` must be empty, and gives its pages back.

    Raises:
        ContextLengthError: If the text does not fit the context or the KV memory.
        OverloadedError: If the KV memory has no room now.
    """
    tokens = request.tokens
    if len(tokens) > most_tokens:
        raise ContextLengthError(
            f"the text has {len(tokens)} tokens, the context holds {most_tokens}; shorten it"
        )
    total_E: Tensor | None = None
    logprobs: list[TokenLogprobs] = []
    try:
        for start in range(0, len(tokens), _ROWS_AT_ONCE):
            part = tokens[start : start + _ROWS_AT_ONCE]
            if not cache.reserve(len(part)):
                raise OverloadedError("the KV memory has no room for this text now; retry later")
            num_logits = 1 if request.num_logprobs is None else len(part)
            logits_NV, states_NE = target.forward_with_features(
                [Rows(part, cache, num_logits, adapter)]
            )
            cache.commit(len(part))
            sum_E = states_NE.double().sum(0)
            total_E = sum_E if total_E is None else total_E + sum_E
            following = tokens[start + 1 : start + 1 + len(part)]
            if request.num_logprobs is not None and following:
                rows_NV = logits_NV[: len(following)]
                logprobs += raw_logprobs(rows_NV, following, num_top=request.num_logprobs)
    finally:
        cache.release()
    assert total_E is not None, "a text has tokens"
    return Reading(tuple((total_E / len(tokens)).tolist()), tuple(logprobs))
