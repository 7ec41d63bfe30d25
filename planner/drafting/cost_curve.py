"""Seconds of one forward by the rows it takes in."""

import math
from bisect import bisect_left
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostCurve:
    """Seconds at some row counts, straight lines between them, nothing beyond them.

    A measured curve may fall here and there: noise, or a kernel that likes more rows.
    """

    rows: tuple[int, ...]
    """Row counts, from 1, rising."""
    seconds: tuple[float, ...]
    """Seconds at each of them, above 0."""

    def __post_init__(self) -> None:
        """Check the points.

        Raises:
            ValueError: If rows do not rise from 1, counts differ, or a time is no positive number.
        """
        if not self.rows or len(self.rows) != len(self.seconds):
            raise ValueError(
                f"{len(self.rows)} row counts and {len(self.seconds)} times; give one time each"
            )
        pairs = zip(self.rows, self.rows[1:], strict=False)
        if self.rows[0] != 1 or any(first >= second for first, second in pairs):
            raise ValueError(f"row counts are {list(self.rows)}; let them rise from 1")
        for rows, seconds in zip(self.rows, self.seconds, strict=True):
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"the time of {rows} rows is {seconds}; give seconds above 0")

    @property
    def most_rows(self) -> int:
        """Largest row count known."""
        return self.rows[-1]

    def seconds_at(self, rows: int) -> float:
        """Return the seconds of one forward over so many rows.

        Raises:
            ValueError: If they are fewer than 1 or more than the curve knows.
        """
        if not 1 <= rows <= self.most_rows:
            raise ValueError(
                f"{rows} rows are outside the curve of 1 to {self.most_rows} rows; measure further"
            )
        right = bisect_left(self.rows, rows)
        if self.rows[right] == rows:
            return self.seconds[right]
        start, end = self.rows[right - 1], self.rows[right]
        share = (rows - start) / (end - start)
        return (1 - share) * self.seconds[right - 1] + share * self.seconds[right]

    def single_rows(self, rows: int) -> float:
        """Return the cost of so many rows in forwards of one row: c(M) / c(1)."""
        return self.seconds_at(rows) / self.seconds[0]
