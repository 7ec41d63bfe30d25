"""Edits of a JSON body that leave every byte they do not concern as the client sent it.

A tree of edits follows the shape of the body: mappings by key or by index, with a new string or
`REMOVED` at the leaves. What no edit concerns is skipped at the speed of the JSON scanner.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

REMOVED: Final = None
"""In place of a new value: the key goes, with its value and one comma."""

Edits = Mapping[str | int, "Edits | str | None"]
"""What to change, by key or by index: a new string, `REMOVED` (of keys only), or edits inside."""

_Span = tuple[int, int, str]
"""Start, end, and what stands there instead."""

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class _Member(NamedTuple):
    """One value of an object or array, and where it stands."""

    key: str | int
    start: int
    """Of the key; of the value inside an array."""
    value: int
    end: int


def edited(text: str, edits: Edits) -> str:
    """Return `text`, a valid JSON object, with `edits` made and all else as it was.

    Where a key stands several times each is replaced or removed; edits inside concern the last, the
    one that counts when the body is read. Edits of what does not exist change nothing.
    """
    spans: list[_Span] = []
    _collect(text, _skip(text, 0), edits, spans)
    pieces, position = [], 0
    for start, end, instead in sorted(spans):
        pieces += [text[position:start], instead]
        position = end
    return "".join([*pieces, text[position:]])


def value_span(text: str, key: str) -> tuple[int, int]:
    """Return where the last value of `key`, which is there, stands in `text`, a valid JSON object."""
    found = [member for member in _members(text, _skip(text, 0)) if member.key == key]
    return found[-1].value, found[-1].end


def _collect(text: str, position: int, edits: Edits, spans: list[_Span]) -> None:
    """Add the spans of one object or array, and of what is edited inside."""
    members = _members(text, position)
    last = {member.key: member for member in members}
    for member in members:
        change = edits.get(member.key)
        if isinstance(change, str):
            spans.append((member.value, member.end, _literal(change)))
        elif change is not None and member is last[member.key] and text[member.value] in "{[":
            _collect(text, member.value, change, spans)
    gone = {key for key, change in edits.items() if change is REMOVED}
    if gone:
        spans += _gaps(members, gone)


def _gaps(members: Sequence[_Member], gone: set[str | int]) -> list[_Span]:
    """Return what to cut out so that the members in `gone`, and one comma each, are no more."""
    gaps = []
    run: list[_Member] = []
    kept: _Member | None = None
    for member in members:
        if member.key in gone:
            run.append(member)
            continue
        if run:
            gaps.append((run[0].start, member.start, ""))
        run, kept = [], member
    if run:
        gaps.append((run[0].start if kept is None else kept.end, run[-1].end, ""))
    return gaps


def _members(text: str, position: int) -> list[_Member]:
    """Return what the object or array that opens at `position` holds."""
    is_object = text[position] == "{"
    members: list[_Member] = []
    position = _skip(text, position + 1)
    while text[position] not in "}]":
        key: str | int = len(members)
        start = value = position
        if is_object:
            key, position = _DECODER.raw_decode(text, position)
            value = _skip(text, _skip(text, position) + 1)
        _, end = _DECODER.raw_decode(text, value)
        members.append(_Member(key, start, value, end))
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return members


def _literal(value: str) -> str:
    """Return a JSON string; what has no UTF-8 (half a surrogate pair) stays escaped."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False)


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()
