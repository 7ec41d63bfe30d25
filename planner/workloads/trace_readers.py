"""`read_trace`: from a file to a `Trace`, with everything that was left out counted.

Rows that do not hold what their format asks are broken: the file is refused unless the caller
allows a fraction of them. Rows that say a request was not answered are left out and counted by
reason. Rows out of order are sorted where the format is written in another order (the router's log
is written as answers end) and refused elsewhere unless the caller asks for sorting: a published
trace is in order, so disorder there means joined or damaged files.
"""

from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from planner.errors import DocumentError
from planner.workloads.trace import Trace
from planner.workloads.trace_formats import FORMATS, BrokenRowError, Row, TraceFormat
from planner.workloads.trace_lines import TraceLines, recognised
from planner.workloads.trace_rows import RowCounts, Tally

OpenFile = Callable[[Path], AbstractContextManager[TextIO]]


def open_text(path: Path) -> TextIO:
    """Return the file as UTF-8 text, without the mark some programs put at its start."""
    return path.open(encoding="utf-8-sig")


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
    open_file: OpenFile = open_text,
) -> TraceReading:
    """Return the requests of the file at `path`, the earliest at 0 seconds.

    Args:
        path: A CSV or JSON lines file, UTF-8.
        format_name: A key of `FORMATS`; by default the first line with content tells.
        broken_rows_fraction: How many of the rows may be broken before the file is refused, 0-1.
        sort_rows: Sort a file whose format promises the order of arrival but is not in it.
        open_file: Opens the path for reading, such as with a display of progress.

    Raises:
        DocumentError: If the file is missing, of no known format, has more broken rows than
            allowed or rows out of order, or holds no answered request.
        ValueError: If `format_name` is unknown.
    """
    if format_name is not None and format_name not in FORMATS:
        raise ValueError(f"format is {format_name!r}; use one of: {', '.join(FORMATS)}")
    try:
        with open_file(path) as file:
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
    notes = tuple(counts.notes(lines.file_format))
    return TraceReading(_trace_of(rows), lines.file_format.name, counts, notes)


def _collect(lines: TraceLines) -> tuple[list[Row], RowCounts]:
    """Return the answered requests in the file's order, and what became of all rows."""
    rows: list[Row] = []
    broken, out_of_order, unanswered = Tally(), Tally(), defaultdict[str, Tally](Tally)
    num_rows, latest = 0, float("-inf")
    for number, text in lines.numbered:
        num_rows += 1
        try:
            row = lines.parse(text)
        except BrokenRowError as error:
            broken.add(number, str(error))
            continue
        if row.unanswered:
            unanswered[row.unanswered].add(number)
            continue
        if row.at_seconds < latest:
            out_of_order.add(number)
        latest = max(latest, row.at_seconds)
        rows.append(row)
    return rows, RowCounts(num_rows, broken, dict(unanswered), out_of_order)


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
    num_broken = counts.broken.count
    if not num_broken <= broken_rows_fraction * counts.num_rows:
        raise DocumentError(
            path,
            f"{counts.broken_sentence()}; correct them, or leave them out with "
            f"broken_rows_fraction {_at_least(num_broken / counts.num_rows)} "
            "(--broken-rows-fraction)",
        )
    if counts.out_of_order.count and file_format.is_in_order and not sort_rows:
        remedy = "check the file, or allow it with sort_rows (--sort-rows)"
        raise DocumentError(path, f"{counts.unsorted_sentence()}; {remedy}")


def _at_least(fraction: float) -> str:
    """Return a short number that is not below `fraction`."""
    return next(f"{step / 1000:g}" for step in range(1, 1001) if step / 1000 >= fraction)


def _nothing_left(counts: RowCounts) -> str:
    told = [counts.unanswered_sentence()] if counts.unanswered else []
    if counts.broken.count:
        told.append(counts.broken_sentence())
    reasons = f": {'; '.join(told)}" if told else ""
    return f"holds no answered request in {counts.num_rows:,} rows{reasons}; a trace needs at least one"
