"""`read_trace`: from a file to a `Trace`, with everything that was left out counted.

Rows that do not hold what their format asks are broken: the file is refused unless the caller
allows a fraction of them. Rows that say a request was not answered are left out and counted by
reason. Rows out of order are sorted where the format is written in another order (the router's log
is written as answers end) and refused elsewhere unless the caller asks for sorting: a published
trace is in order, so disorder there means joined or damaged files.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.errors import DocumentError
from planner.trace import Trace
from planner.trace_formats import FORMATS, BrokenRowError, Row, TraceFormat
from planner.trace_lines import TraceLines, recognised


@dataclass(frozen=True, slots=True)
class RowCounts:
    """What became of the rows of a file."""

    num_rows: int
    """Lines that are neither blank nor the header."""
    num_broken: int
    first_broken: str
    """Line number and reason of the first broken row; empty where none is."""
    num_unanswered: Mapping[str, int]
    """Rows of requests that were not answered, by reason."""
    num_out_of_order: int
    """Rows that arrive before some row above them."""
    first_out_of_order: int
    """Line number of the first of them; 0 where none is."""


@dataclass(frozen=True, slots=True)
class TraceReading:
    """A trace and how it was read."""

    trace: Trace
    format_name: str
    counts: RowCounts
    notes: tuple[str, ...]
    """What the user must know of rows left out or moved, a sentence each."""


def read_trace(
    path: Path,
    *,
    format_name: str | None = None,
    broken_rows_fraction: float = 0.0,
    sort_rows: bool = False,
) -> TraceReading:
    """Return the requests of the file at `path`, the earliest at 0 seconds.

    Args:
        path: A CSV or JSON lines file, UTF-8.
        format_name: A key of `FORMATS`; by default the first line with content tells.
        broken_rows_fraction: How many of the rows may be broken before the file is refused, 0-1.
        sort_rows: Sort a file whose format promises the order of arrival but is not in it.

    Raises:
        DocumentError: If the file is missing, of no known format, has more broken rows than
            allowed or rows out of order, or holds no answered request.
        ValueError: If `format_name` is unknown.
    """
    if format_name is not None and format_name not in FORMATS:
        raise ValueError(f"format is {format_name!r}; use one of: {', '.join(FORMATS)}")
    try:
        with path.open(encoding="utf-8-sig") as file:
            lines = recognised(path, file, format_name)
            rows, counts = _collect(lines)
    except FileNotFoundError:
        raise DocumentError(path, "no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read ({error}); a trace is CSV or JSON lines in UTF-8"
        raise DocumentError(path, problem) from None
    _check(path, lines.file_format, counts, broken_rows_fraction, sort_rows=sort_rows)
    if not rows:
        raise DocumentError(path, _nothing_left(counts))
    notes = tuple(_notes(lines.file_format, counts))
    return TraceReading(_trace_of(rows), lines.file_format.name, counts, notes)


def _collect(lines: TraceLines) -> tuple[list[Row], RowCounts]:
    """Return the answered requests in the file's order, and what became of all rows."""
    rows: list[Row] = []
    num_rows = num_broken = num_out_of_order = first_out_of_order = 0
    first_broken, unanswered, latest = "", Counter[str](), float("-inf")
    for number, text in lines.numbered:
        num_rows += 1
        try:
            row = lines.parse(text)
        except BrokenRowError as error:
            num_broken += 1
            first_broken = first_broken or f"line {number}: {error}"
            continue
        if row.unanswered:
            unanswered[row.unanswered] += 1
            continue
        if row.at_seconds < latest:
            num_out_of_order += 1
            first_out_of_order = first_out_of_order or number
        latest = max(latest, row.at_seconds)
        rows.append(row)
    counts = RowCounts(
        num_rows, num_broken, first_broken, unanswered, num_out_of_order, first_out_of_order
    )
    return rows, counts


def _trace_of(rows: list[Row]) -> Trace:
    """Return the rows by their arrival; equal arrivals stay in the file's order."""
    rows = sorted(rows, key=lambda row: row.at_seconds)
    start = rows[0].at_seconds
    has_models = any(row.model for row in rows)
    has_limits = any(row.max_tokens for row in rows)
    return Trace(
        arrival_seconds=tuple(row.at_seconds - start for row in rows),
        input_tokens=tuple(row.input_tokens for row in rows),
        output_tokens=tuple(row.output_tokens for row in rows),
        models=tuple(row.model for row in rows) if has_models else None,
        max_tokens=tuple(row.max_tokens for row in rows) if has_limits else None,
    )


def _check(
    path: Path,
    file_format: TraceFormat,
    counts: RowCounts,
    broken_rows_fraction: float,
    *,
    sort_rows: bool,
) -> None:
    if counts.num_broken > broken_rows_fraction * counts.num_rows:
        raise DocumentError(
            path,
            f"{counts.num_broken:,} of {counts.num_rows:,} rows are broken, {counts.first_broken}; "
            "correct them, or leave them out with --broken-rows-fraction "
            f"{_at_least(counts.num_broken / counts.num_rows)}",
        )
    if counts.num_out_of_order and file_format.is_in_order and not sort_rows:
        raise DocumentError(
            path,
            f"{counts.num_out_of_order:,} of {counts.num_rows:,} rows arrive before a row above them, the "
            f"first in line {counts.first_out_of_order}; check the file, or sort with --sort-rows",
        )


def _at_least(fraction: float) -> str:
    """Return a short number that is not below `fraction`."""
    return next(f"{step / 1000:g}" for step in range(1, 1001) if step / 1000 >= fraction)


def _nothing_left(counts: RowCounts) -> str:
    reasons = [f"{number:,} with {reason}" for reason, number in counts.num_unanswered.items()]
    if counts.num_broken:
        reasons.append(f"{counts.num_broken:,} broken, {counts.first_broken}")
    told = f" ({'; '.join(reasons)})" if reasons else ""
    return (
        f"holds no answered request in {counts.num_rows:,} rows{told}; a trace needs at least one"
    )


def _notes(file_format: TraceFormat, counts: RowCounts) -> Iterator[str]:
    if counts.num_broken:
        yield (
            f"{counts.num_broken:,} of {counts.num_rows:,} rows are broken and left out, "
            f"{counts.first_broken}"
        )
    if counts.num_unanswered:
        reasons = ", ".join(
            f"{number:,} {reason}" for reason, number in counts.num_unanswered.items()
        )
        yield (
            f"{sum(counts.num_unanswered.values()):,} of {counts.num_rows:,} requests were not answered and are "
            f"left out ({reasons})"
        )
    if counts.num_out_of_order:
        reason = "" if file_format.is_in_order else ", as lines are written when answers end"
        yield f"{counts.num_out_of_order:,} rows were sorted by their arrival{reason}"
    if file_format.note:
        yield file_format.note
