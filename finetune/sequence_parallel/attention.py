"""Attention of a row that a group of ranks shares, for any decoder of transformers.

Registered with its attention interface: a model's linear layers see the rank's own tokens, and only
this function knows of the other ranks and of where one sequence ends. What it needs of the row
comes as a keyword of the model's forward, which transformers hands on to every layer, and again
when a checkpointed layer is computed a second time.

Shape letters: t tokens of this rank, T of the row, H query heads, G key-value heads, W width.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from finetune.errors import SequenceParallelError
from finetune.sequence_parallel.head_exchange import HeadExchange

NAME = "motley-sequence-parallel"
"""Name of the attention in transformers' registry. Without one of the same name among its masks,
transformers makes no mask and looks for no packed sequences."""

_OTHER_KINDS = ("softcap", "s_aux", "position_bias", "alibi", "block_mask", "cu_seq_lens_q")
"""Keywords by which models ask for more than plain attention."""

_MOST_WIDTH = 256
"""Wider heads, masks, and values of another width than keys leave CUDA without a kernel that takes
fewer key-value heads than queries; the plain one that is left stores every score."""


class SharedRow:
    """What attention must know of the row in work.

    Attributes:
        exchange: The exchanges among the group's ranks.
        spans: Where the row's sequences begin, and its tokens at last.
        num_calls: How often attention was computed on it.
    """

    def __init__(self, exchange: HeadExchange, spans: tuple[int, ...]) -> None:
        """Begin without a call."""
        self.exchange = exchange
        self.spans = spans
        self.num_calls = 0


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    shared_row: SharedRow | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each sequence of the row, causally.

    Args:
        module: The attention layer.
        query: Queries with positions applied. Shape: (1, H, t, W).
        key: Keys with positions applied. Shape: (1, G, t, W).
        value: Values, of a width of their own. Shape: (1, G, t, W).
        attention_mask: Must be None.
        scaling: Factor on the scores; None is 1 / sqrt(W).
        dropout: Must be 0.
        sliding_window: How many tokens a token sees, itself included; None is all.
        shared_row: The row; ours, by the model's forward.
        is_causal: Must not be False.
        others: What transformers passes besides.

    Returns:
        Mixed values and no weights. Shape: (1, t, H, W).

    Raises:
        SequenceParallelError: If the model asks for a kind of attention this function has not.
    """
    asked = {name: others.get(name) for name in _OTHER_KINDS}
    asked |= {"attention_mask": attention_mask, "dropout": dropout or None}
    if is_causal is False or not getattr(module, "is_causal", True):
        asked["is_causal=False"] = True
    _refuse_other_kinds(module, asked)
    if shared_row is None:
        raise SequenceParallelError(
            f"{model_name(module)}: its layers hand no keywords on to attention; train it on one "
            "device"
        )
    shared_row.num_calls += 1
    own = (part[0].transpose(0, 1) for part in (query, key, value))
    heads = shared_row.exchange.to_heads(*own)
    mixed = [
        _attend(
            *(part[start:end].transpose(0, 1)[None] for part in heads),
            scaling=scaling,
            window=sliding_window,
        )
        for start, end in pairwise(shared_row.spans)
    ]
    mixed_THW = torch.cat(mixed, dim=2)[0].transpose(0, 1)
    return shared_row.exchange.to_tokens(mixed_THW)[None], None


def model_name(module: nn.Module) -> str:
    """Return the name of a layer's or model's architecture."""
    return str(getattr(getattr(module, "config", None), "model_type", type(module).__name__))


def _refuse_other_kinds(module: nn.Module, asked: dict[str, Any]) -> None:
    for name, value in asked.items():
        if value is not None:
            shown = f" {value}" if isinstance(value, float) else ""
            raise SequenceParallelError(
                f"{model_name(module)}: attention with {name}{shown} cannot be shared among ranks; "
                "switch it off in the model's configuration, or train on one device"
            )


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float | None, window: int | None
) -> Tensor:
    """Attend within one sequence. Shape: (1, heads, length, W)."""
    length = query.shape[2]
    if window is None or length <= window:
        return _attend_dense(query, key, value, mask=None, scaling=scaling)
    # A window's worth of queries at a time sees two windows of keys: memory grows with the length
    # and not with its square.
    parts = []
    for start in range(0, length, window):
        end, first = min(start + window, length), max(0, start - window + 1)
        mask = _window_mask(range(start, end), range(first, end), window, query.device)
        rows = (query[:, :, start:end], key[:, :, first:end], value[:, :, first:end])
        parts.append(_attend_dense(*rows, mask=mask, scaling=scaling))
    return torch.cat(parts, dim=2)


def _attend_dense(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, scaling: float | None
) -> Tensor:
    """Attend under the mask, or causally without one. Shape: (1, heads, rows, W)."""
    copies = query.shape[1] // key.shape[1]
    if copies > 1 and (mask is not None or not key.shape[-1] == value.shape[-1] <= _MOST_WIDTH):
        key, value = (part.repeat_interleave(copies, dim=1) for part in (key, value))
    return functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def _window_mask(queries: range, keys: range, window: int, device: torch.device) -> Tensor:
    distance = (
        torch.arange(queries.start, queries.stop, device=device)[:, None]
        - torch.arange(keys.start, keys.stop, device=device)[None, :]
    )
    return (distance >= 0) & (distance < window)


AttentionInterface.register(NAME, shared_attention)
