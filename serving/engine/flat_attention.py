"""Attention over a flat batch: the rows of many sequences in one token axis, each with its own past.

Registered with transformers' attention interface, so that any decoder that uses the interface runs
in the engine without model code of our own: its linears see one long row of tokens, and only this
function knows where one sequence ends.

A row's result depends, bit for bit, on its own query and the keys and values of its own chain, and
not on the rows computed with it: alone, in a chunk, in any tree. Sums over keys are taken within a
page of 64 in one chain of multiply-adds, in which a masked key's zero changes nothing, and then
page after page. This rests on how the matrix library computes: rows are padded to at least four,
and no sum is longer than `_MOST_TERMS`. `tests/unit/serving/test_flat_attention.py` checks it.

Shape letters: T rows of the whole batch, H query heads, G key-value heads, D head size; and those
of `span_group`.
"""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from serving.engine.pages import PAGE_TOKENS
from serving.engine.span_group import SpanGroup
from serving.engine.spans import Spans

NAME = "motley_flat"
"""Name of the attention implementation in transformers' registry."""

_OTHER_KINDS = ("s_aux", "position_bias", "alibi", "block_mask", "cu_seq_lens_q")
"""Keywords by which models ask for more than plain attention."""

_MOST_TERMS = 128
"""Products up to this reduction length are single chains; from about 192 on they are blocked."""

_CACHED_FLOATS = 1 << 17
"""Numbers of one copy of pages: half a megabyte stays in a core's own cache."""

_LOG2_E = math.log2(math.e)
"""Scores are binary logarithms: powers of two take a third of the time of the exponential, which is
slower still on what is masked."""

_FEW_PARTS = 8
"""Up to so many parts of a single span are added rather than multiplied by ones: the same bits."""

_NORM_COLUMNS = 16
"""Columns of ones that sum the weights: whole vectors, as in the product with the values."""


def flat_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    spans: Spans,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend within each span, to its cached past and to a row's own ancestors.

    Args:
        module: The attention layer; its `layer_idx` selects the pool's layer.
        query: Queries with positions applied. Shape: (1, H, T, D).
        key: New keys with positions applied. Shape: (1, G, T, D).
        value: New values. Shape: (1, G, T, D).
        attention_mask: Unused; spans replace it.
        scaling: Factor on the scores.
        spans: The sequences of the batch, covering all T rows in order.
        sliding_window: How many tokens a row sees, itself included; None is all.
        softcap: Scores s become softcap * tanh(s / softcap); None leaves them.
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
        layer,
        query,
        key,
        value,
        scaling=scaling,
        spans=spans,
        sliding_window=sliding_window,
        softcap=softcap,
    )
    return mixed, None


def attend(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    spans: Spans,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Do what `flat_attention` says, for the layer of that index. Shape: (1, T, H, D)."""
    by_row = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]
    mixed = attend_rows(
        layer,
        *by_row,
        scaling=scaling,
        spans=spans,
        sliding_window=sliding_window,
        softcap=softcap,
    )
    return mixed.unsqueeze(0)


def attend_rows(
    layer: int,
    query_THD: Tensor,
    key_TGD: Tensor,
    value_TGD: Tensor,
    *,
    scaling: float,
    spans: Spans,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Do what `flat_attention` says, row by row. Shape: (T, H, D)."""
    num_rows, num_heads, size = query_THD.shape
    tables = spans.tables(num_heads, key_TGD.shape[1], sliding_window, query_THD.device)
    keys_PGKD, values_PGKD = spans.pool.layer(layer, key_TGD, value_TGD)
    for pages, new in ((keys_PGKD, key_TGD), (values_PGKD, value_TGD)):
        width = new.shape[-1]
        pages.view(-1, width).index_copy_(0, tables.write, new.reshape(-1, width))
    query_rows = query_THD.reshape(-1, size)
    outputs = [
        _attend_group(group, query_rows, keys_PGKD, values_PGKD, scaling, softcap)
        for group in tables.groups
    ]
    mixed = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    ordered = mixed.index_select(0, tables.read).view(num_rows, num_heads, -1)
    return ordered if ordered.dtype == query_THD.dtype else ordered.to(query_THD.dtype)


def _attend_group(
    group: SpanGroup,
    query_rows: Tensor,
    keys_PGKD: Tensor,
    values_PGKD: Tensor,
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Return mixed values by span, head and row, in float32. Shape: (S G R J, D)."""
    num_pages, num_kv_heads = group.num_pages, group.num_kv_heads
    queries = _in_float32(query_rows.index_select(0, group.queries))
    queries = queries.view(num_pages * num_kv_heads, -1, queries.shape[-1])
    factor = scaling * _LOG2_E if softcap is None else scaling / softcap
    scores = _product(queries, keys_PGKD, group, is_transposed=True, factor=factor)
    if softcap is not None:
        scores.tanh_().mul_(softcap * _LOG2_E)
    scores = scores.view(-1, *group.mask_shape)
    masked = scores[group.num_open_pages :] if group.num_open_pages else scores
    masked.add_(group.mask)
    weights = _exponentials(scores, group).view(len(queries), -1, PAGE_TOKENS)
    parts, norms = _product(weights, values_PGKD, group), _norms(weights)
    parts, norms = parts.view(num_pages, -1), norms.view(num_pages, -1)
    if group.tails is not None:
        tail_parts, tail_norms = _tail_parts(group, group.tails, weights, values_PGKD)
        parts, norms = torch.cat([parts, tail_parts]), torch.cat([norms, tail_norms])
    mixed = _sum_in_order(group, parts).view(-1, values_PGKD.shape[-1])
    return mixed.div_(_sum_in_order(group, norms).view(-1, _NORM_COLUMNS)[:, :1])


def _product(
    left: Tensor,
    pages: Tensor,
    group: SpanGroup,
    *,
    is_transposed: bool = False,
    factor: float = 1.0,
) -> Tensor:
    """Multiply by the pages of the group or their transposes, by page and head. Shape: (N G, rows, ...).

    Pages are copied a few at a time on a processor: the product reads its right side in an order that
    is slow on what is not in the cache, and pages of several sequences are no view.
    """
    num_pages, num_kv_heads = group.num_pages, group.num_kv_heads
    step = max(1, _CACHED_FLOATS // pages.stride(0)) if pages.device.type == "cpu" else num_pages
    if group.run_start is not None and num_pages <= step:
        run = _in_float32(pages.narrow(0, group.run_start, num_pages)).flatten(0, 1)
        return _times(left, run.mT if is_transposed else run, factor)
    products = []
    for start in range(0, num_pages, step):
        some = _in_float32(pages.index_select(0, group.pages[start : start + step])).flatten(0, 1)
        rows = slice(start * num_kv_heads, (start + step) * num_kv_heads)
        products.append(_times(left[rows], some.mT if is_transposed else some, factor))
    return products[0] if len(products) == 1 else torch.cat(products)


def _times(left: Tensor, right: Tensor, factor: float) -> Tensor:
    if factor == 1.0:
        return torch.bmm(left, right)
    return torch.baddbmm(_nothing(left.device), left, right, beta=0, alpha=factor)


@cache
def _nothing(device: torch.device) -> Tensor:
    return torch.zeros(1, 1, 1, device=device)


def _in_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float32 else tensor.float()


def _exponentials(scores: Tensor, group: SpanGroup) -> Tensor:
    """Turn binary logarithms into weights that are at most 1 over all pages of a span; in place."""
    num_queries = group.num_kv_heads * group.num_rows * group.num_shared
    by_page = scores.view(-1, num_queries, PAGE_TOKENS)
    if group.maxima is None:
        largest = by_page.amax((0, 2), keepdim=True)
    else:
        assert group.owner is not None
        of_pages = by_page.amax(2).index_select(0, group.maxima)
        of_spans = of_pages.view(group.num_spans, -1, num_queries).amax(1)
        largest = of_spans.index_select(0, group.owner).unsqueeze(2)
    by_page.sub_(largest).exp2_()
    return scores


def _norms(weights: Tensor) -> Tensor:
    """Return the sum of each row's weights, in every column. Shape: (rows, 16)."""
    length = weights.shape[-1]
    return weights.view(-1, length) @ _ones(length, weights.device)


@cache
def _ones(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, _NORM_COLUMNS, device=device)


def _tail_parts(
    group: SpanGroup, tails: Tensor, weights: Tensor, values_PGKD: Tensor
) -> tuple[Tensor, Tensor]:
    """Return parts and norms of straddling trees' last two blocks. Shape: (2 S, ...).

    A row's block there is spread over both pages; their tokens stand in the order of the chain.
    """
    num_spans, num_kv_heads = group.num_spans, group.num_kv_heads
    by_page = weights.view(-1, num_kv_heads, *weights.shape[1:]).index_select(0, tails)
    joined = by_page.view(num_spans, -1, *by_page.shape[1:]).permute(0, 2, 3, 1, 4).flatten(3)
    of_blocks = (joined.unsqueeze(1) * group.members).flatten(0, 2)
    tail_values = _in_float32(values_PGKD.index_select(0, group.pages[tails]))
    joined_values = (
        tail_values.view(num_spans, -1, *tail_values.shape[1:]).transpose(1, 2).flatten(2, 3)
    )
    num_blocks = group.members.shape[1]
    repeated = joined_values.unsqueeze(1).expand(-1, num_blocks, -1, -1, -1).flatten(0, 2)
    parts = torch.bmm(of_blocks, repeated).view(num_spans * num_blocks, -1)
    return parts, _norms(of_blocks).view(num_spans * num_blocks, -1)


def _sum_in_order(group: SpanGroup, parts: Tensor) -> Tensor:
    """Sum each span's parts one after the other. Shape: (S, ...).

    A product with zeros and ones, whose terms are added in order and whose zeros change nothing.
    """
    if group.order is not None:
        parts = parts.index_select(0, group.order)
    if group.sums is None:
        return parts
    if group.num_spans == 1 and len(parts) <= _FEW_PARTS:
        total, *rest = parts.unbind(0)
        for part in rest:
            total.add_(part)
        return total
    step = max(1, _MOST_TERMS - len(group.sums))
    total = group.sums[:, :_MOST_TERMS] @ parts[:_MOST_TERMS]
    for start in range(_MOST_TERMS, len(parts), step):
        before = torch.eye(len(group.sums), device=parts.device)
        chosen = torch.cat([before, group.sums[:, start : start + step]], dim=1)
        total = chosen @ torch.cat([total, parts[start : start + step]])
    return total[: group.num_spans]


AttentionInterface.register(NAME, flat_attention)
