"""A row's attention depends on its own chain alone, bit for bit, and is attention.

Shape letters: H query heads, G key-value heads, L tokens of a chain, D head size.
"""

import random
import zlib
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from serving.engine.flat_attention import attend
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.spans import Span, Spans

PASTS = (0, 1, 30, 60, 63, 64, 65, 120, 127, 130, 200, 320)
NUM_ROWS = (1, 1, 2, 3, 5, 8, 13, 16, 33, 64)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of attention layer."""

    num_kv_heads: int
    num_shared: int
    size: int
    window: int | None
    softcap: float | None

    def run(self, spans: list[Span], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend; queries and keys by row, heads and size."""
        by_head = [tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value)]
        return attend(
            0,
            *by_head,
            scaling=0.2,
            spans=Spans(spans),
            sliding_window=self.window,
            softcap=self.softcap,
        )[0]

    def rows(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return random queries, keys and values."""
        num_heads = self.num_kv_heads * self.num_shared
        kv = torch.randn(2, count, self.num_kv_heads, self.size)
        return torch.randn(count, num_heads, self.size), kv[0], kv[1]

    def plain(self, query_HD: Tensor, key_LGD: Tensor, value_LGD: Tensor) -> Tensor:
        """Return what the last of L tokens sees, in float64."""
        keys, values = (
            tensor.double().repeat_interleave(self.num_shared, 1) for tensor in (key_LGD, value_LGD)
        )
        scores_HL = torch.einsum("hd,lhd->hl", query_HD.double(), keys) * 0.2
        if self.softcap:
            scores_HL = self.softcap * (scores_HL / self.softcap).tanh()
        if self.window:
            scores_HL[:, : -self.window] = -torch.inf
        return torch.einsum("hl,lhd->hd", scores_HL.softmax(-1), values).float()


@dataclass(frozen=True, slots=True)
class Case:
    """One sequence of a batch: cached tokens, then rows that may be a tree."""

    cache: SequenceCache
    parents: list[int]
    past: tuple[Tensor, Tensor, Tensor]
    new: tuple[Tensor, Tensor, Tensor]

    def chain(self, row: int) -> tuple[Tensor, Tensor]:
        """Return the keys and values a row sees."""
        path = []
        while row >= 0:
            path.insert(0, row)
            row = self.parents[row]
        keys, values = (torch.cat([self.past[i], self.new[i][path]]) for i in (1, 2))
        return keys, values


def random_case(rng: random.Random, kind: Kind, pool: KVPool) -> Case:
    past, num_rows = rng.choice(PASTS), rng.choice(NUM_ROWS)
    reach = rng.choice([1, 2, 8])
    parents = [-1] + [rng.randint(max(0, row - reach), row - 1) for row in range(1, num_rows)]
    case = Case(SequenceCache(pool), parents, kind.rows(past), kind.rows(num_rows))
    while case.cache.length < past:
        start = case.cache.length
        count = min(rng.choice([1, 3, 17, 64, 100, 200]), past - start)
        chunk = [tensor[start : start + count] for tensor in case.past]
        kind.run([Span(case.cache, 0, count)], *chunk)
        case.cache.commit(count)
    return case


def scattered_pool(rng: random.Random) -> KVPool:
    """Return a pool whose free pages lie apart, or one whose do not."""
    pool = KVPool(80)
    held = [SequenceCache(pool) for _ in range(20)]
    for cache in held:
        cache.reserve(64 * rng.choice([1, 1, 2]))
    share = rng.choice([0.0, 0.5, 1.0])
    for cache in held:
        if rng.random() < share:
            cache.release()
    return pool


def alone(kind: Kind, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the last token's row, decoded behind a prefill of all others."""
    cache = SequenceCache(KVPool(150))
    past = len(keys) - 1
    if past:
        kind.run([Span(cache, 0, past)], kind.rows(past)[0], keys[:-1], values[:-1])
        cache.commit(past)
    return kind.run([Span(cache, 0, 1)], query[None], keys[-1:], values[-1:])[0]


def prefilled(kind: Kind, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the last token's row of one prefill."""
    queries = torch.cat([kind.rows(len(keys) - 1)[0], query[None]])
    return kind.run([Span(SequenceCache(KVPool(150)), 0, len(keys))], queries, keys, values)[-1]


@pytest.mark.parametrize("window", [None, 7, 70, 150])
@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("heads", [(1, 1), (2, 1), (3, 2), (2, 4)], ids=str)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_row_is_the_same_alone_in_a_chunk_and_in_any_tree(softcap, heads, size, window):
    """Equal to the bit in float32 in a ragged batch, and equal to plain attention to 1e-5."""
    seed = zlib.crc32(repr((softcap, heads, size, window)).encode())
    rng = random.Random(seed)
    torch.manual_seed(seed)
    kind = Kind(*heads, size, window, softcap)
    for _ in range(2):
        pool = scattered_pool(rng)
        cases = [random_case(rng, kind, pool) for _ in range(rng.randint(1, 5))]
        spans, count = [], 0
        for case in cases:
            spans.append(Span(case.cache, count, count + len(case.parents), case.parents))
            count += len(case.parents)
        batch = kind.run(spans, *(torch.cat([case.new[i] for case in cases]) for i in range(3)))
        for span, case in zip(spans, cases, strict=True):
            for row in rng.sample(range(span.num_rows), min(3, span.num_rows)):
                query, chain = case.new[0][row], case.chain(row)
                result = batch[span.start + row]
                assert torch.equal(result, alone(kind, query, *chain))
                assert torch.equal(result, prefilled(kind, query, *chain))
                assert torch.allclose(result, kind.plain(query, *chain), atol=1e-5)


def test_sums_over_many_pages_are_in_order_too():
    """More pages than one product sums: a row of a prefill equals the same row alone."""
    kind = Kind(1, 1, 32, None, None)
    torch.manual_seed(0)
    query, keys, values = kind.rows(64 * 140 + 5)
    row = prefilled(kind, query[-1], keys, values)
    pool = KVPool(150)
    cache = SequenceCache(pool)
    for start in range(0, len(keys) - 1, 4000):
        stop = min(start + 4000, len(keys) - 1)
        rows = slice(start, stop)
        kind.run([Span(cache, 0, stop - start)], query[rows], keys[rows], values[rows])
        cache.commit(stop - start)
    other = SequenceCache(pool)
    spans = [Span(other, 0, 3), Span(cache, 3, 4)]
    batch = kind.run(spans, *(torch.cat([t[:3], t[-1:]]) for t in (query, keys, values)))
    assert torch.equal(batch[-1], row)
    assert torch.allclose(row, kind.plain(query[-1], keys, values), atol=1e-5)


def test_coarser_types_attend_in_float32():
    """Keys and values in bfloat16 give the float32 result of the rounded numbers."""
    kind = Kind(2, 2, 64, None, None)
    torch.manual_seed(0)
    rows = [tensor.bfloat16() for tensor in kind.rows(70)]
    coarse = kind.run([Span(SequenceCache(KVPool(2)), 0, 70)], *rows)
    exact = kind.run([Span(SequenceCache(KVPool(2)), 0, 70)], *(row.float() for row in rows))
    assert coarse.dtype == torch.bfloat16
    assert torch.equal(coarse, exact.bfloat16())


def test_a_tree_too_large_for_two_pages_is_refused():
    """The limit is named."""
    with pytest.raises(ValueError, match="at most 64 rows"):
        Span(SequenceCache(KVPool(2)), 0, 65, [-1] + [0] * 64)
