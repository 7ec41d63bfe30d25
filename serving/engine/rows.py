"""Rows of many sequences on one token axis: what every way of running a model takes in."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine.adapters import Adapter
from serving.engine.flat_attention import Span
from serving.engine.kv_cache import SequenceCache


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens of one sequence: they continue what `cache` holds.

    `num_logits` counts the last rows whose logits are wanted.
    """

    tokens: Sequence[int]
    cache: SequenceCache
    num_logits: int = 1
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True)
class FlatRows:
    """The rows of a batch on one token axis."""

    tokens: list[int]
    positions: list[int]
    """Place of each token in its own sequence."""
    wanted: list[int]
    """Rows whose logits are wanted."""
    spans: list[Span]
    """Where each sequence's rows are."""

    @property
    def wants_all(self) -> bool:
        """Whether every row's logits are wanted."""
        return len(self.wanted) == len(self.tokens)


def lay_flat(batch: Sequence[Rows]) -> FlatRows:
    """Put the rows of all sequences one behind the other."""
    tokens: list[int] = []
    positions: list[int] = []
    wanted: list[int] = []
    spans: list[Span] = []
    for rows in batch:
        start, past = len(tokens), rows.cache.length
        tokens.extend(rows.tokens)
        stop = len(tokens)
        positions.extend(range(past, past + stop - start))
        wanted.extend(range(stop - rows.num_logits, stop))
        spans.append(Span(rows.cache, start, stop))
    return FlatRows(tokens, positions, wanted, spans)
