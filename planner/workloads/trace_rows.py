"""What became of the rows of a trace file: counted, and the first few named by line number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from planner.workloads.trace_formats import TraceFormat

_FIRST_FEW = 3


@dataclass(slots=True)
class Tally:
    """Rows that share a fate."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """Line number, and the reason where there is one, of the first few."""

    def add(self, line_number: int, reason: str = "") -> None:
        """Count a row."""
        self.count += 1
        if len(self.first) < _FIRST_FEW:
            self.first.append(f"line {line_number}: {reason}" if reason else f"line {line_number}")

    def __str__(self) -> str:
        """Return the first few, and a sign of more."""
        return "; ".join(self.first) + ("; ..." if self.count > len(self.first) else "")


@dataclass(frozen=True, slots=True)
class RowCounts:
    """The rows of one file."""

    num_rows: int
    """Lines that are neither blank nor the header."""
    broken: Tally
    """Rows that do not hold what the format asks."""
    unanswered: Mapping[str, Tally]
    """Rows of requests that were not answered, by reason."""
    out_of_order: Tally
    """Answered requests that arrive before some row above them."""

    @property
    def num_unanswered(self) -> int:
        """Requests without an answer, whatever the reason."""
        return sum(tally.count for tally in self.unanswered.values())

    def broken_sentence(self) -> str:
        """Return how many rows are broken, with the first few."""
        return f"{self.broken.count:,} of {self.num_rows:,} rows are broken ({self.broken})"

    def unsorted_sentence(self) -> str:
        """Return how many rows are out of order, with the first few."""
        return (
            f"{self.out_of_order.count:,} of {self.num_rows:,} rows arrive before a row above them "
            f"({self.out_of_order})"
        )

    def unanswered_sentence(self) -> str:
        """Return how many requests were not answered, by reason, with the first few of each."""
        reasons = "; ".join(
            f"{tally.count:,} with {reason}, {tally}" for reason, tally in self.unanswered.items()
        )
        return (
            f"{self.num_unanswered:,} of {self.num_rows:,} requests were not answered ({reasons})"
        )

    def notes(self, file_format: TraceFormat) -> Iterator[str]:
        """Yield what the user must know of rows left out or moved, a sentence each."""
        if self.broken.count:
            yield f"{self.broken_sentence()}; they are left out"
        if self.unanswered:
            yield f"{self.unanswered_sentence()}; they are left out"
        if self.out_of_order.count:
            why = "" if file_format.is_in_order else ", as lines are written when answers end"
            yield f"{self.unsorted_sentence()}{why}; they were sorted"
        if file_format.note:
            yield file_format.note
