"""Attention over a flat batch: the rows of many sequences in one token axis, each with its own past.

Registered with transformers' attention interface, so that any decoder that uses the interface runs
in the engine without model code of our own: its linears see one long row of tokens, and only this
function knows where one sequence ends.

Shape letters: T rows of the whole batch, H query heads, G key-value heads, N rows of one sequence,
L tokens of one sequence so far, D head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from serving.engine.kv_cache import SequenceCache

NAME = "motley_flat"
"""Name of the attention implementation in transformers' registry."""


_OTHER_KINDS = ("softcap", "s_aux", "position_bias", "alibi", "block_mask", "cu_seq_lens_q")
"""Keywords by which models ask for more than plain attention."""


@dataclass(frozen=True, slots=True)
class Span:
    """Rows `start` to `stop` of the flat batch continue the sequence that `cache` holds."""

    cache: SequenceCache
    start: int
    stop: int


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    spans: list[Span],
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each span, to its cached past and causally to its own rows.

    Args:
        module: The attention layer; its `layer_idx` selects the cache's buffers.
        query: Queries with positions applied. Shape: (1, H, T, D).
        key: New keys with positions applied. Shape: (1, G, T, D).
        value: New values. Shape: (1, G, T, D).
        attention_mask: Unused; spans replace it.
        scaling: Factor on the scores.
        spans: The sequences of the batch, covering all T rows in order.
        sliding_window: How many tokens a row sees, itself included; None is all.
        others: What transformers passes besides.

    Returns:
        Mixed values and no weights. Shape: (1, T, H, D).

    Raises:
        ValueError: If a model asks for a kind of attention this function has not.
    """
    unmet = sorted(name for name in _OTHER_KINDS if others.get(name) is not None)
    if unmet:
        raise ValueError(f"attention with {unmet[0]} is not supported")
    layer: int = module.layer_idx  # type: ignore[assignment]
    mixed = attend(
        layer, query, key, value, scaling=scaling, spans=spans, sliding_window=sliding_window
    )
    return mixed, None


def attend(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    spans: list[Span],
    sliding_window: int | None = None,
) -> Tensor:
    """Do what `flat_attention` says, for the layer of that index. Shape: (1, T, H, D)."""
    outputs = []
    for span in spans:
        rows = slice(span.start, span.stop)
        past = span.cache.length
        keys_GLD, values_GLD = span.cache.write(layer, key[0, :, rows], value[0, :, rows])
        outputs.append(
            functional.scaled_dot_product_attention(
                query[:, :, rows],
                keys_GLD.unsqueeze(0),
                values_GLD.unsqueeze(0),
                attn_mask=_mask(span.stop - span.start, past, sliding_window, query.device),
                scale=scaling,
                enable_gqa=True,
            )
        )
    mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return mixed.transpose(1, 2)


def _mask(num_rows: int, past: int, window: int | None, device: torch.device) -> Tensor | None:
    """Return which of the L = past + N tokens each row sees, or None for all. Shape: (N, L)."""
    length = past + num_rows
    if num_rows == 1 and (window is None or length <= window):
        return None
    visible_NL = torch.ones(num_rows, length, dtype=torch.bool, device=device).tril(past)
    if window is not None:
        visible_NL = visible_NL.triu(past - window + 1)
    return visible_NL


AttentionInterface.register(NAME, flat_attention)
