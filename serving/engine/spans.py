"""Where each sequence's rows are in a flat batch, and which of them attention computes together.

What attention needs is prepared once for a forward and used by every layer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine.kv_cache import SequenceCache
from serving.engine.pages import PAGE_TOKENS
from serving.engine.span_group import Piece, SpanGroup
from serving.engine.transfer import upload

MOST_TREE_ROWS = 64
"""Rows of a tree: then its tail lies in two pages at most."""

_MOST_ROWS = 128
_MOST_SCORES = 1 << 18
"""Rows of one piece of a long chunk, and its rows times keys: what bounds the score tensor."""

_MOST_PAGES = 256
_MOST_SPANS = 64
"""Pages of one group, which bounds the copies of keys and values, and its spans."""

_MOST_PADDING = 400
"""Rows of heads and pages that padding may add to save a group: at 64 numbers a head they take some
80 microseconds of one core, as do a group's own calls."""


class Span:
    """Rows `start` to `stop` of the flat batch continue the sequence that `cache` holds."""

    def __init__(
        self, cache: SequenceCache, start: int, stop: int, parents: Sequence[int] | None = None
    ) -> None:
        """Place the rows; `parents` as in `Rows`.

        Raises:
            ValueError: If the parents are no tree of these rows, or the tree is too large.
        """
        self.cache = cache
        self.start = start
        self.stop = stop
        self.past = cache.length
        num_rows = stop - start
        if parents is not None and list(parents) == list(range(-1, num_rows - 1)):
            parents = None
        self.parents = parents
        if parents is None:
            self.positions = list(range(self.past, self.past + num_rows))
            return
        if len(parents) != num_rows or num_rows > MOST_TREE_ROWS:
            raise ValueError(
                f"a tree of {num_rows} rows with {len(parents)} parents; give one parent a row and "
                f"at most {MOST_TREE_ROWS} rows"
            )
        self.positions = []
        for row, parent in enumerate(parents):
            if not -1 <= parent < row:
                raise ValueError(f"row {row} has parent {parent}; a parent stands before its child")
            self.positions.append(self.positions[parent] + 1 if parent >= 0 else self.past)

    @property
    def num_rows(self) -> int:
        """New rows of the sequence."""
        return self.stop - self.start

    def pieces(self) -> Iterator[Piece]:
        """Yield the rows in parts of bounded size; a tree stays whole."""
        most = self.num_rows
        if self.parents is None:
            keys = self.past + self.num_rows
            most = max(4, min(_MOST_ROWS, _MOST_SCORES // keys))
        for first in range(0, self.num_rows, most):
            stop = min(first + most, self.num_rows)
            yield Piece(
                pages=self.cache.pages[: (self.past + stop - 1) // PAGE_TOKENS + 1],
                start=self.start + first,
                positions=self.positions[first:stop],
                past=self.past,
                parents=self.parents,
            )


@dataclass(frozen=True, slots=True)
class Tables:
    """Index tensors of one forward, for layers of one shape."""

    write: Tensor
    """Place of each row's key in a layer's pages seen as one list of heads' slots. Shape: (T G,)."""
    groups: list[SpanGroup]
    read: Tensor
    """Place of each row's head among the outputs of all groups. Shape: (T H,)."""


class Spans:
    """The sequences of one forward, in the order of their rows; all live in one pool."""

    def __init__(self, spans: Sequence[Span]) -> None:
        """Make room for the new rows, which the scheduler has reserved."""
        self.spans = spans
        self.pool = spans[0].cache.pool
        for span in spans:
            assert span.cache.pool is self.pool, "a model has one pool"
            has_room = span.cache.reserve(span.num_rows)
            assert has_room, "the scheduler reserves enough room"
        self.pool.clean()
        self._tables: dict[tuple[int, int, int | None, torch.device], Tables] = {}

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.spans)

    def __iter__(self) -> Iterator[Span]:
        """Yield the sequences' spans."""
        return iter(self.spans)

    def tables(
        self, num_heads: int, num_kv_heads: int, window: int | None, device: torch.device
    ) -> Tables:
        """Return what a layer of that shape needs, made at the first such layer."""
        key = num_heads, num_kv_heads, window, device
        found = self._tables.get(key)
        if found is None:
            found = self._tables[key] = self._prepare(*key)
        return found

    def _prepare(
        self, num_heads: int, num_kv_heads: int, window: int | None, device: torch.device
    ) -> Tables:
        groups = [
            SpanGroup(pieces, num_heads, num_kv_heads, window, device)
            for pieces in _merged(_grouped(self.spans), num_heads)
        ]
        num_rows = self.spans[-1].stop
        read_TH = np.empty((num_rows, num_heads), dtype=np.int64)
        base = 0
        for group in groups:
            rows_N, places_NH = group.output_places()
            read_TH[rows_N] = places_NH + base
            base += group.num_outputs
        return Tables(
            write=upload(self._write_places(num_kv_heads), device),
            groups=groups,
            read=upload(read_TH.reshape(-1), device),
        )

    def _write_places(self, num_kv_heads: int) -> NDArray[np.int64]:
        slots = [
            span.cache.slot(place)
            for span in self.spans
            for place in range(span.past, span.past + span.num_rows)
        ]
        slots_T1 = np.array(slots, dtype=np.int64)[:, None]
        pages_T1, places_T1 = slots_T1 // PAGE_TOKENS, slots_T1 % PAGE_TOKENS
        places_TG = (pages_T1 * num_kv_heads + np.arange(num_kv_heads)) * PAGE_TOKENS + places_T1
        return places_TG.reshape(-1)


def _grouped(spans: Sequence[Span]) -> list[list[Piece]]:
    """Put pieces of about as many rows together, and long ones alone."""
    groups: list[list[Piece]] = []
    open_groups: dict[tuple[int, bool], list[Piece]] = {}
    for span in spans:
        for piece in span.pieces():
            key = piece.num_padded_rows, piece.straddles
            group = open_groups.get(key)
            if group is None or _is_full(group, piece):
                group = open_groups[key] = []
                groups.append(group)
            group.append(piece)
    return groups


def _is_full(group: list[Piece], piece: Piece) -> bool:
    num_pages = _num_pages(group) + len(piece.pages)
    is_long = piece.num_rows >= _MOST_ROWS // 2
    return is_long or num_pages > _MOST_PAGES or len(group) >= _MOST_SPANS


def _merged(groups: list[list[Piece]], num_heads: int) -> list[list[Piece]]:
    """Let a group join one of more rows where padding costs less than computing it apart."""
    merged: list[list[Piece]] = []
    for group in sorted(groups, key=lambda pieces: -pieces[0].num_padded_rows):
        host = next((other for other in merged if _may_join(group, other, num_heads)), None)
        if host is None:
            merged.append([*group])
        else:
            host += group
    return merged


def _may_join(group: list[Piece], host: list[Piece], num_heads: int) -> bool:
    padding = host[0].num_padded_rows - group[0].num_padded_rows
    return (
        group[0].straddles == host[0].straddles
        and padding * _num_pages(group) * num_heads <= _MOST_PADDING
        and _num_pages(group) + _num_pages(host) <= _MOST_PAGES
        and len(group) + len(host) <= _MOST_SPANS
    )


def _num_pages(group: list[Piece]) -> int:
    return sum(len(piece.pages) for piece in group)
