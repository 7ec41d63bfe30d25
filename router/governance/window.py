"""How much was counted in the last 60 seconds: exact sums by the second.

A ring of 60 cells, one a second, their sum, and the newest second seen. An amount counts from its
second until 60 whole seconds have begun after it, so in no 60 seconds, wherever they begin, more is
let in than the limit; what was counted leaves up to one second late. A token bucket with the same
average would let twice the limit through in one minute.

The cells are any sequence of whole numbers: a list, or memory that several processes share.
"""

from collections.abc import Iterable
from typing import Protocol, overload

WINDOW_SECONDS = 60
NUM_CELLS = 2 + WINDOW_SECONDS
"""What a window takes: the newest second, the sum, then the ring."""


class Cells(Protocol):
    """Whole numbers by place."""

    @overload
    def __getitem__(self, place: int, /) -> int: ...

    @overload
    def __getitem__(self, places: "slice[int, int, int]", /) -> Iterable[int]: ...

    def __setitem__(self, place: int, value: int, /) -> None:
        """Replace the number at `place`."""
        ...


class Window:
    """One window in `cells` from `start` on; call `advance` before anything else is asked."""

    __slots__ = ("_cells", "_newest", "_ring", "_sum")

    def __init__(self, cells: Cells, start: int) -> None:
        self._cells = cells
        self._newest = start
        self._sum = start + 1
        self._ring = start + 2

    @property
    def total(self) -> int:
        """What was counted in the last 60 seconds."""
        return self._cells[self._sum]

    @property
    def newest(self) -> int:
        """The second that amounts are counted in."""
        return self._cells[self._newest]

    def advance(self, now_second: int) -> None:
        """Move on to `now_second` (whole seconds of a wall clock); what is over 60 old leaves.

        A clock set back by less than a minute stands still here; one set back further, or forward,
        empties the window.
        """
        cells, newest = self._cells, self._cells[self._newest]
        step = now_second - newest
        if step == 0 or -WINDOW_SECONDS < step < 0:
            return
        if step < 0 or step >= WINDOW_SECONDS:
            for place in range(self._ring, self._ring + WINDOW_SECONDS):
                cells[place] = 0
            cells[self._sum] = 0
        else:
            for second in range(newest + 1, now_second + 1):
                place = self._ring + second % WINDOW_SECONDS
                cells[self._sum] -= cells[place]
                cells[place] = 0
        cells[self._newest] = now_second

    def add(self, amount: int) -> None:
        """Count `amount` in the newest second."""
        cells = self._cells
        cells[self._ring + cells[self._newest] % WINDOW_SECONDS] += amount
        cells[self._sum] += amount

    def take_back(self, amount: int, second: int) -> None:
        """Uncount what was added in `second`; what has left meanwhile needs no taking back."""
        cells = self._cells
        if not 0 <= cells[self._newest] - second < WINDOW_SECONDS:
            return
        place = self._ring + second % WINDOW_SECONDS
        taken = min(amount, cells[place])
        cells[place] -= taken
        cells[self._sum] -= taken

    def seconds_until_room(self, amount: int, limit: int) -> int:
        """Return in how many seconds `amount` fits under `limit`: at least 1, at most 60."""
        cells = self._cells
        newest, left = cells[self._newest], cells[self._sum]
        for seconds in range(1, WINDOW_SECONDS):
            left -= cells[self._ring + (newest + seconds) % WINDOW_SECONDS]
            if left + amount <= limit:
                return seconds
        return WINDOW_SECONDS
