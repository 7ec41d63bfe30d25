"""What attention needs of spans that it computes together: pages, masks, order of sums.

The unit of work is one page of one span. Pages of all spans lie on one axis, so that sequences of
different length need no padding. Rows are padded to the longest span by repeating its last row.

Shape letters: N pages on the axis, S spans, R rows of a span, K tokens of a page, G key-value
heads, J query heads of each key-value head, B parts in order of summing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serving.engine.pages import PAGE_TOKENS
from serving.engine.transfer import upload

LEAST_PRODUCT_ROWS = 4
"""Matrix products of fewer rows take other kernels, with other rounding."""

_TAIL_PAGES = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one span and the pages they look at."""

    pages: list[int]
    start: int
    """Index of the first row in the flat batch."""
    positions: list[int]
    past: int
    """Tokens of the sequence before the span's first row."""
    parents: Sequence[int] | None

    @property
    def num_rows(self) -> int:
        """Rows of the piece."""
        return len(self.positions)

    @property
    def num_padded_rows(self) -> int:
        """Rows rounded up, so that like spans share a group: by less than a quarter."""
        unit = 1 << max(0, (self.num_rows - 1).bit_length() - 3)
        return -(-self.num_rows // unit) * unit

    @property
    def straddles(self) -> bool:
        """Whether a tree's rows lie in another page than their places in a chain would."""
        return self.parents is not None and len(self.pages) - self.past // PAGE_TOKENS > 1

    def first_page(self, window: int | None) -> int:
        """Return the first page that a row may see; a tree's rows have the same or later ones."""
        if window is None:
            return 0
        return max(0, min(self.positions) - window + 1) // PAGE_TOKENS


class SpanGroup:
    """Index tensors and mask of a group, for layers of one shape."""

    def __init__(
        self,
        pieces: Sequence[Piece],
        num_heads: int,
        num_kv_heads: int,
        window: int | None,
        device: torch.device,
    ) -> None:
        """Prepare `pieces`, all of which straddle or none."""
        self._pieces = pieces
        self._window = window
        self._device = device
        self.num_spans = len(pieces)
        self.num_kv_heads = num_kv_heads
        self.num_shared = num_heads // num_kv_heads
        least = -(-LEAST_PRODUCT_ROWS // self.num_shared)
        self.num_rows = max(least, pieces[0].num_padded_rows)
        self.pages: Tensor
        """The pages on the axis. Shape: (N,)."""
        self._lay_out()
        row_S1 = np.array([[piece.start] for piece in pieces])
        last_S1 = np.array([[piece.num_rows - 1] for piece in pieces])
        self._row_SR = row_S1 + np.minimum(np.arange(self.num_rows), last_S1)
        self.queries = self._on_device(self._query_places())
        """Row and head of each query on the axis, as row times heads plus head."""
        self._set_maxima()
        self._set_masks()
        self._set_sums()

    @property
    def num_outputs(self) -> int:
        """Outputs by span, head and row, padding included."""
        return self.num_spans * self.num_kv_heads * self.num_rows * self.num_shared

    def output_places(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows of the flat batch and where the group's outputs have each of their heads."""
        rows, places = [], []
        head_H = np.arange(self.num_kv_heads * self.num_shared)
        group_H, shared_H = head_H // self.num_shared, head_H % self.num_shared
        for span, piece in enumerate(self._pieces):
            row_N1 = np.arange(piece.num_rows)[:, None]
            block = (span * self.num_kv_heads + group_H) * self.num_rows + row_N1
            places.append(block * self.num_shared + shared_H)
            rows.append(row_N1[:, 0] + piece.start)
        return np.concatenate(rows), np.concatenate(places)

    def _lay_out(self) -> None:
        """Decide the axis: owner and number of each page, and where each span's pages are on it."""
        firsts = [piece.first_page(self._window) for piece in self._pieces]
        self._firsts = firsts
        pages = [
            p
            for piece, first in zip(self._pieces, firsts, strict=True)
            for p in piece.pages[first:]
        ]
        counts = [
            len(piece.pages) - first for piece, first in zip(self._pieces, firsts, strict=True)
        ]
        self._starts = np.concatenate(([0], np.cumsum(counts)))
        self.pages = self._on_device(np.array(pages))
        self._owner_N = np.repeat(np.arange(self.num_spans), counts)
        self._number_N = np.concatenate(
            [np.arange(first, first + count) for first, count in zip(firsts, counts, strict=True)]
        )
        self.num_pages = len(pages)
        is_run = pages == list(range(pages[0], pages[0] + len(pages)))
        self.run_start = pages[0] if is_run else None
        """First page where the axis is a run of the pool's pages."""

    def _query_places(self) -> NDArray[np.int64]:
        num_heads = self.num_kv_heads * self.num_shared
        head_GJ = np.arange(num_heads).reshape(self.num_kv_heads, self.num_shared)
        row_NR = self._row_SR[self._owner_N] * num_heads
        places: NDArray[np.int64] = row_NR[:, None, :, None] + head_GJ[None, :, None, :]
        return places.reshape(-1)

    def _set_maxima(self) -> None:
        """Say which pages' largest scores belong together; None where all do."""
        self.maxima: Tensor | None = None
        self.owner: Tensor | None = None
        if self.num_spans == 1:
            return
        counts = np.diff(self._starts)
        index_SB = self._starts[:-1, None] + np.minimum(
            np.arange(counts.max()), counts[:, None] - 1
        )
        self.maxima = self._on_device(index_SB.reshape(-1))
        self.owner = self._on_device(self._owner_N)

    def _set_masks(self) -> None:
        """Make the mask of the axis and, for straddling trees, of their tails."""
        key_NK = self._number_N[:, None] * PAGE_TOKENS + np.arange(PAGE_TOKENS)
        is_open_NRK = None
        if any(piece.parents is not None for piece in self._pieces):
            is_open_NRK = np.ones((len(key_NK), self.num_rows, PAGE_TOKENS), dtype=bool)
            self._mark_trees(key_NK, is_open_NRK)
        position_SR = np.array(
            [
                piece.positions + piece.positions[-1:] * (self.num_rows - piece.num_rows)
                for piece in self._pieces
            ]
        )
        distance_NRK = position_SR[self._owner_N][:, :, None] - key_NK[:, None, :]
        visible_NRK = distance_NRK >= 0
        if is_open_NRK is not None:
            visible_NRK &= is_open_NRK
        if self._window is not None:
            visible_NRK &= distance_NRK < self._window
        is_masked_N = ~visible_NRK.all(axis=(1, 2))
        self.num_open_pages = int(is_masked_N.argmax())
        """Pages at the beginning of the axis that all rows see whole; never all pages."""
        masked_NRK = visible_NRK[self.num_open_pages :]
        mask_NRK = np.where(masked_NRK, np.float32(0), np.float32(-np.inf))
        self.mask = self._on_device(mask_NRK[:, None, :, None, :])
        """What is added to the other pages' scores. Shape: (N - open, 1, R, 1, K)."""
        self.mask_shape = self.num_kv_heads, self.num_rows, self.num_shared, PAGE_TOKENS
        self.tails: Tensor | None = None
        """Where the last two pages of each straddling tree are on the axis. Shape: (2 S,)."""
        if self._pieces[0].straddles:
            tails_S2 = np.stack([self._tail(span) for span in range(self.num_spans)])
            self.tails = self._on_device(tails_S2.reshape(-1))
            block_SK = key_NK[tails_S2].reshape(self.num_spans, -1) // PAGE_TOKENS
            first_S1 = np.array([[piece.past // PAGE_TOKENS] for piece in self._pieces])
            blocks = [(block_SK == first_S1 + i)[:, None] for i in range(_TAIL_PAGES)]
            member = np.concatenate(blocks, axis=1).astype(np.float32)
            self.members = self._on_device(member[:, :, None, None, :])
            """1 for the tail's tokens in each block of the row's own chain. Shape: (S, 2, 1, 1, 2 K)."""

    def _tail(self, span: int) -> NDArray[np.int64]:
        """Return where the pages behind a span's full past pages are on the axis."""
        first = self._pieces[span].past // PAGE_TOKENS - self._firsts[span]
        return np.arange(self._starts[span] + first, self._starts[span + 1])

    def _mark_trees(self, key_NK: NDArray[np.int64], is_open_NRK: NDArray[np.bool_]) -> None:
        """Give tree rows the place of their depth, and open to each row its own ancestors only."""
        for span, piece in enumerate(self._pieces):
            if piece.parents is None:
                continue
            tail, num_rows = self._tail(span), piece.num_rows
            start = piece.past % PAGE_TOKENS
            is_own = np.zeros((self.num_rows, len(tail) * PAGE_TOKENS), dtype=bool)
            is_own[:, :start] = True
            for row, parent in enumerate(piece.parents):
                if parent >= 0:
                    is_own[row] = is_own[parent]
                is_own[row, start + row] = True
            is_own[num_rows:] = is_own[num_rows - 1]
            is_open_NRK[tail] = is_own.reshape(self.num_rows, len(tail), -1).transpose(1, 0, 2)
            key = key_NK[tail].reshape(-1)
            key[start : start + num_rows] = piece.positions
            key_NK[tail] = key.reshape(len(tail), -1)

    def _set_sums(self) -> None:
        """Say in which order parts are summed, and to which span each belongs."""
        self.order: Tensor | None = None
        """Parts in order of their blocks, where it is not the axis's."""
        owner = self._owner_N
        if self.tails is not None:
            parts = []
            for span, start in enumerate(self._starts[:-1]):
                first_tail = len(self._owner_N) + _TAIL_PAGES * span
                parts += [
                    np.arange(start, self._tail(span)[0]),
                    np.arange(first_tail, first_tail + _TAIL_PAGES),
                ]
            # As many parts as pages: each tail page's own part gives way to a block's.
            self.order = self._on_device(np.concatenate(parts))
        num_sums = max(LEAST_PRODUCT_ROWS, self.num_spans)
        sums_MB = np.zeros((num_sums, len(owner)), dtype=np.float32)
        sums_MB[owner, np.arange(len(owner))] = 1
        self.sums: Tensor | None = None
        """1 where a part belongs to a span; None where each span has one. Shape: (>= S, B)."""
        if len(owner) > self.num_spans:
            self.sums = self._on_device(sums_MB)

    def _on_device(self, array: NDArray[np.generic]) -> Tensor:
        return upload(array, self._device)
