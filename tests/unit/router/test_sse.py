"""Cutting streams into events."""

import itertools

import pytest

from router.sse import MAX_EVENT_BYTES, EventSplitter, event_data

EVENTS = [b"data: a\n", b": note\n", b"event: x\ndata: b\ndata: c\n", b"data: [DONE]\n"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_every_split_gives_the_same_events(line_end: bytes) -> None:
    """Two cuts at every pair of positions change neither the events nor a byte."""
    events = [(event + b"\n").replace(b"\n", line_end) for event in EVENTS]
    stream = b"".join(events)
    for first, second in itertools.combinations(range(len(stream) + 1), 2):
        splitter = EventSplitter()
        parts = stream[:first], stream[first:second], stream[second:]
        assert [event for part in parts for event in splitter.feed(part)] == events
        assert splitter.take_rest() == b""


def test_unfinished_event_is_the_rest() -> None:
    """Bytes after the last blank line stay until asked for."""
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n\ndata: b\n") == [b"data: a\n\n"]
    assert splitter.take_rest() == b"data: b\n"


def test_oversized_event_passes_in_pieces() -> None:
    """An event without an end does not grow in memory, and all of its bytes pass."""
    splitter = EventSplitter()
    piece = b"x" * (MAX_EVENT_BYTES // 2 + 1)
    assert splitter.feed(piece) == []
    assert splitter.feed(piece) == [piece + piece]
    assert splitter.is_inside_event
    assert splitter.feed(b"y\n\nz") == [b"y\n\n"]
    assert not splitter.is_inside_event


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\r\n\r\n", b"a"),
        (b"event: x\rdata: a\rdata: b\r\r", b"a\nb"),
        (b": comment\n\n", None),
        (b"\n\n", None),
    ],
)
def test_event_data(event: bytes, data: bytes | None) -> None:
    """Data lines are joined; an event without any has no data."""
    assert event_data(event) == data
