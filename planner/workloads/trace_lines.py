"""The lines of a trace file: which format they have, and what reads one of them."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from planner.errors import DocumentError
from planner.workloads.trace_formats import FORMATS, BrokenRowError, Row, TraceFormat


@dataclass(frozen=True, slots=True)
class TraceLines:
    """A recognised file, ready to be read once."""

    file_format: TraceFormat
    numbered: Iterator[tuple[int, str]]
    """Line number and text of every line that holds a row."""
    parse: Callable[[str], Row]
    """From a line to its row; raises BrokenRowError."""


def recognised(path: Path, texts: Iterator[str], name: str | None) -> TraceLines:
    """Return the lines of the format called `name`, or of the one that the first line shows.

    Raises:
        DocumentError: If the file is empty, of no known format or lacks columns of the named one.
    """
    lines = ((number, text) for number, text in enumerate(texts, 1) if text.strip())
    number, first = next(lines, (0, ""))
    if not first:
        raise DocumentError(path, "is empty; a trace holds at least one request")
    if name is not None:
        file_format = FORMATS[name]
        found = set(_header(first)) if file_format.is_csv else set(file_format.fields)
        missing = [column for column in file_format.fields if column not in found]
        if missing:
            problem = f"its header lacks {', '.join(missing)}, which the format {name} asks"
            raise DocumentError(path, f"{problem}; correct the header or name another format")
    else:
        file_format = _guessed(path, number, first)
    if file_format.is_csv:
        return TraceLines(file_format, lines, _csv_parser(path, file_format, _header(first)))
    rows = _again(number, first, lines)
    return TraceLines(file_format, rows, lambda line: file_format.row(_json_object(line)))


def _guessed(path: Path, number: int, first: str) -> TraceFormat:
    is_json = first.lstrip().startswith("{")
    try:
        found = set(_json_object(first)) if is_json else set(_header(first))
    except BrokenRowError:
        found = set()
    for file_format in FORMATS.values():
        if file_format.is_csv != is_json and found.issuperset(file_format.fields):
            return file_format
    known = "; ".join(f"{name}: {', '.join(known.fields)}" for name, known in FORMATS.items())
    problem = f"line {number} has the fields of no known trace format ({known})"
    raise DocumentError(path, f"{problem}; rename the fields or name the format")


def _again(number: int, first: str, lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    yield number, first
    yield from lines


def _header(line: str) -> list[str]:
    try:
        return [name.strip() for name in _fields(line)]
    except BrokenRowError:
        return []


def _csv_parser(path: Path, file_format: TraceFormat, header: list[str]) -> Callable[[str], Row]:
    for name in file_format.fields:
        if header.count(name) > 1:
            raise DocumentError(path, f"its header has {name} twice; remove one of the columns")
    places = [header.index(name) for name in file_format.fields]
    width = len(header)

    def parse(line: str) -> Row:
        texts = _fields(line)
        if len(texts) != width:
            raise BrokenRowError(f"has {len(texts)} fields, the header {width}")
        return file_format.row([texts[place] for place in places])

    return parse


def _fields(line: str) -> list[str]:
    """Return the fields of one line; a quoted field ends on its line, so none swallows others."""
    text = line.rstrip("\n")
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise BrokenRowError(f"is no CSV ({error})") from None


def _json_object(line: str) -> dict[str, object]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenRowError(f"is no JSON ({error})") from None
    if not isinstance(content, dict):
        raise BrokenRowError("is no JSON object")
    return content
