"""Cutting a byte stream into server-sent events without changing a byte.

An event ends at the first blank line. Lines may end in LF, CRLF or CR; a stream that mixes CR with
the others inside one blank line is not cut there, which costs latency but no byte.
"""

import json
import re

MAX_EVENT_BYTES = 2**20
"""A longer event is passed on in pieces, uninspected, so that memory stays bounded."""

BLANK_LINE = re.compile(rb"\n\n|\n\r\n|\r\r")
_DATA_LINE = re.compile(rb"^data:[ ]?([^\r\n]*)", re.MULTILINE)


class EventSplitter:
    """Collects bytes and gives back whole events; the events joined are the bytes fed."""

    def __init__(self) -> None:
        self._rest = b""
        self.is_inside_event = False
        """Whether the last piece given back was the beginning of an oversized event."""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events `chunk` completes, each with its blank line."""
        scan_from = max(0, len(self._rest) - 2)
        buffer = self._rest + chunk
        events = []
        start = 0
        for blank_line in BLANK_LINE.finditer(buffer, scan_from):
            events.append(buffer[start : blank_line.end()])
            start = blank_line.end()
            self.is_inside_event = False
        self._rest = buffer[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            events.append(self.take_rest())
            self.is_inside_event = True
        return events

    def take_rest(self) -> bytes:
        """Return and forget the bytes after the last whole event."""
        rest, self._rest = self._rest, b""
        return rest


def event_data(event: bytes) -> bytes | None:
    """Return an event's data, its lines joined by LF, or None if it has none (a comment)."""
    lines = _DATA_LINE.findall(event.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    return b"\n".join(lines) if lines else None


def data_event(content: object) -> bytes:
    """Return an event whose data is `content` as JSON."""
    return b"data: " + json.dumps(content, separators=(",", ":")).encode() + b"\n\n"
