"""Whether attention gives a row the same bits alone, in a chunk, in a tree and beside other sequences.

`flat_attention` is written so that it does; the matrix library decides whether it does on this
processor, with these head sizes and this number of threads.

Shape letters: L tokens of a chain, H query heads, G key-value heads, D head size.
"""

import torch
from torch import Tensor
from transformers import PretrainedConfig

from serving.engine.flat_attention import attend
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.spans import Span, Spans

CHAIN_TOKENS = 200
"""Tokens of the chain: more than three pages."""

PASTS = (0, 61, 130, 191)
"""Cached tokens in front of the rows: page ends lie close behind some."""

TREE_PARENTS = (-1, -1, 0, 0, 2, 2, 4)
"""A tree whose rows 0, 2, 4 and 6 are the chain and whose others are wrong guesses."""


def attention_is_row_invariant(
    config: PretrainedConfig,
    *,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> bool:
    """Compare rows of one chunk with the same rows alone and in trees of two sequences, bit for bit.

    Args:
        config: Of the model: head counts and size, sliding window, soft cap.
        device: Where it attends; None is the processor.
        dtype: Type of queries, keys and values.
    """
    generator = torch.Generator().manual_seed(0)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    queries = torch.randn(CHAIN_TOKENS, heads, size, generator=generator).to(device, dtype)
    keys, values = torch.randn(2, CHAIN_TOKENS, kv_heads, size, generator=generator).to(
        device, dtype
    )
    guesses = torch.randn(3, len(TREE_PARENTS), kv_heads, size, generator=generator)
    guesses = guesses.to(device, dtype)
    windows = {None, getattr(config, "sliding_window", None)}
    softcap = getattr(config, "attn_logit_softcapping", None)
    for window in windows:
        run = _Run(window, softcap)
        whole = run.rows([Span(_cache(), 0, CHAIN_TOKENS)], queries, keys, values)
        for past in PASTS:
            alone, tree = _cache(), _cache()
            for cache in (alone, tree):
                if past:
                    run.rows([Span(cache, 0, past)], queries[:past], keys[:past], values[:past])
                    cache.commit(past)
            one = [tensor[past : past + 1] for tensor in (queries, keys, values)]
            if not torch.equal(run.rows([Span(alone, 0, 1)], *one)[0], whole[past]):
                return False
            chain = [row for row in range(len(TREE_PARENTS)) if row % 2 == 0]
            on_chain = [past + place for place in range(len(chain))]
            mixed = [
                guesses[0].repeat(1, heads // kv_heads, 1),
                guesses[1].clone(),
                guesses[2].clone(),
            ]
            for tensor, true in zip(mixed, (queries, keys, values), strict=True):
                tensor[chain] = true[on_chain]
            found = run.rows([Span(tree, 0, len(TREE_PARENTS), TREE_PARENTS)], *mixed)
            if not torch.equal(found[chain], whole[on_chain]):
                return False
    return True


class _Run:
    """One kind of attention layer."""

    def __init__(self, window: int | None, softcap: float | None) -> None:
        self._window, self._softcap = window, softcap

    def rows(self, spans: list[Span], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; queries, keys and values by row, heads and size. Shape: (L, H, D)."""
        by_head = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
        mixed: Tensor = attend(
            0,
            *by_head,
            scaling=query.shape[-1] ** -0.5,
            spans=Spans(spans),
            sliding_window=self._window,
            softcap=self._softcap,
        )
        return mixed[0]


def _cache() -> SequenceCache:
    return SequenceCache(KVPool.for_tokens(CHAIN_TOKENS + len(TREE_PARENTS)))
