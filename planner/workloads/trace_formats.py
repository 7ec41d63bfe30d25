"""The trace files Motley reads: one row function a format, from a row's values to a `Row`.

- `azure`: CSV with `TIMESTAMP` (ISO date and time, UTC unless it names a zone; read to the
  microsecond), `ContextTokens`, `GeneratedTokens`: the Azure LLM inference traces of 2023 and 2024.
- `burstgpt`: CSV with `Timestamp` (seconds), `Model`, `Request tokens`, `Response tokens`; further
  columns are not read. A failed request has 0 response tokens there.
- `mooncake`: JSON lines with `timestamp` (milliseconds), `input_length`, `output_length`;
  `hash_ids`, the prefixes that requests share, are not read, so every input counts in full.
- `motley`: JSON lines of the router's traffic log, schema 1; `max_tokens` is read where it stands.
  A request whose status is an error and whose tokens are unknown was not answered; one that was
  answered must have its tokens.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from planner.workloads.trace import MOST_TOKENS

NO_OUTPUT = "no output tokens"
"""Why a row with 0 output tokens is no answered request."""

_KNOWN_LOG_VERSION = 1


class Row(NamedTuple):
    """One request as its file states it."""

    at_seconds: float
    """From any start."""
    input_tokens: int
    output_tokens: int
    model: str = ""
    """Empty where the file names none."""
    max_tokens: int | None = None
    unanswered: str = ""
    """Why the request was not answered; its tokens then mean nothing."""


class BrokenRowError(ValueError):
    """A row does not hold what its format asks; the message says which value."""


@dataclass(frozen=True, slots=True)
class TraceFormat:
    """How the rows of one kind of file are recognised and read."""

    name: str
    fields: tuple[str, ...]
    """Columns of the CSV header or keys of each JSON line that tell this format from others."""
    is_csv: bool
    row: Callable[[Any], Row]
    """From the fields' texts in order (CSV) or the whole mapping (JSON); raises BrokenRowError."""
    is_in_order: bool = True
    """Whether the rows are written in the order of arrival."""
    note: str = ""
    """What the reader leaves out of every file of this format, for the report."""


def _azure_row(texts: Sequence[str]) -> Row:
    when, context, generated = texts
    try:
        moment = datetime.fromisoformat(when.strip())
    except ValueError:
        raise BrokenRowError(f"TIMESTAMP is {_short(when)}, no date and time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return _row(
        moment.timestamp(), ("ContextTokens", context), ("GeneratedTokens", generated), model=""
    )


def _burstgpt_row(texts: Sequence[str]) -> Row:
    when, model, request, response = texts
    return _row(
        _seconds("Timestamp", when),
        ("Request tokens", request),
        ("Response tokens", response),
        model=model.strip(),
    )


def _mooncake_row(content: Mapping[str, object]) -> Row:
    return _row(
        _seconds("timestamp", content.get("timestamp")) / 1000,
        ("input_length", content.get("input_length")),
        ("output_length", content.get("output_length")),
        model="",
    )


def _motley_row(content: Mapping[str, object]) -> Row:
    version = content.get("schema_version")
    if version != _KNOWN_LOG_VERSION:
        raise BrokenRowError(
            f"schema_version is {_short(version)}; this reader knows {_KNOWN_LOG_VERSION}"
        )
    at_seconds = _seconds("arrival_unix_seconds", content.get("arrival_unix_seconds"))
    prompt, completion = content.get("prompt_tokens"), content.get("completion_tokens")
    status = content.get("status")
    if (prompt is None or completion is None) and isinstance(status, int) and status >= 400:
        return Row(at_seconds, 0, 0, unanswered=f"status {status}")
    model = content.get("model")
    if model is not None and not isinstance(model, str):
        raise BrokenRowError(f"model is {_short(model)}, no text")
    row = _row(
        at_seconds,
        ("prompt_tokens", prompt),
        ("completion_tokens", completion),
        model=model or "",
    )
    limit = content.get("max_tokens")
    return row if limit is None else row._replace(max_tokens=_tokens("max_tokens", limit, least=1))


FORMATS = {
    file_format.name: file_format
    for file_format in (
        TraceFormat(
            "azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), is_csv=True, row=_azure_row
        ),
        TraceFormat(
            "burstgpt",
            ("Timestamp", "Model", "Request tokens", "Response tokens"),
            is_csv=True,
            row=_burstgpt_row,
        ),
        TraceFormat(
            "mooncake",
            ("timestamp", "input_length", "output_length"),
            is_csv=False,
            row=_mooncake_row,
            note="shared prefixes (hash_ids) are not read; every input counts in full",
        ),
        TraceFormat(
            "motley",
            ("schema_version", "arrival_unix_seconds", "prompt_tokens", "completion_tokens"),
            is_csv=False,
            row=_motley_row,
            is_in_order=False,  # the router writes a line when the answer ends
        ),
    )
}
"""Every format by name, in the order in which they are tried."""


def _row(
    at_seconds: float, inputs: tuple[str, object], outputs: tuple[str, object], *, model: str
) -> Row:
    output_tokens = _tokens(*outputs, least=0)
    if output_tokens == 0:
        # A failed request may well have no input either; it breaks nothing.
        return Row(at_seconds, _tokens(*inputs, least=0), 0, model, unanswered=NO_OUTPUT)
    return Row(at_seconds, _tokens(*inputs, least=1), output_tokens, model)


def _number(name: str, value: object) -> float:
    """Return a finite number from a JSON value or a CSV text."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise BrokenRowError(f"{name} is {_short(value)}, no number") from None
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            raise BrokenRowError(f"{name} is {_short(value)}, too large") from None
    else:
        raise BrokenRowError(f"{name} is {_short(value)}, no number")
    if not math.isfinite(number):
        raise BrokenRowError(f"{name} is {_short(value)}, no finite number")
    return number


def _seconds(name: str, value: object) -> float:
    number = _number(name, value)
    if number < 0:
        raise BrokenRowError(f"{name} is {_short(value)}, below 0")
    return number


def _tokens(name: str, value: object, *, least: int) -> int:
    if isinstance(value, str) and len(value) < 10 and value.isdecimal():
        number: float = int(value)  # the usual case; by way of float it takes twice as long
    else:  # pandas writes whole numbers as `374.0` in a column with gaps
        number = value if type(value) is int else _number(name, value)
    if number != int(number):
        raise BrokenRowError(f"{name} is {_short(value)}, no whole number")
    if number < 0:
        raise BrokenRowError(f"{name} is {_short(value)}, below 0")
    if not least <= number <= MOST_TOKENS:
        raise BrokenRowError(f"{name} is {_short(value)}, not from {least} to {MOST_TOKENS:,}")
    return int(number)


def _short(value: object) -> str:
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a very long number"
    return text if len(text) <= 40 else text[:37] + "..."
