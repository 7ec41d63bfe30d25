"""Rows of many sequences on one token axis: what every way of running a model takes in."""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.engine.adapters import Adapter
from serving.engine.kv_cache import SequenceCache
from serving.engine.spans import Span, Spans


@dataclass(frozen=True, slots=True)
class Rows:
    """New tokens of one sequence: they continue what `cache` holds.

    `num_logits` counts the last rows whose logits are wanted. `parents` makes the rows a tree: the
    index among these rows of each row's parent, which stands before it, or -1 for the last
    committed token. None is a chain.
    """

    tokens: Sequence[int]
    cache: SequenceCache
    num_logits: int = 1
    adapter: Adapter | None = None
    parents: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class FlatRows:
    """The rows of a batch on one token axis."""

    tokens: list[int]
    positions: list[int]
    """Place of each token in its own sequence; in a tree, behind its own ancestors."""
    wanted: list[int]
    """Rows whose logits are wanted."""
    spans: Spans
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
        start = len(tokens)
        tokens.extend(rows.tokens)
        stop = len(tokens)
        span = Span(rows.cache, start, stop, rows.parents)
        positions.extend(span.positions)
        wanted.extend(range(stop - rows.num_logits, stop))
        spans.append(span)
    return FlatRows(tokens, positions, wanted, Spans(spans))
