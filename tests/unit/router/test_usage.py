"""Withholding exactly the last usage chunk, and reading token counts."""

import itertools
import json

import pytest

from router.usage import UNKNOWN, Usage, UsageFilter, read_usage

CONTENT = b'data: {"choices":[{"delta":{"content":"\\"usage\\": {} \xc3\xa9"}}]}\n\n'
NULL_USAGE = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\n'
REPORT = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n'
COMMENT = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
COUNTS = Usage(prompt_tokens=7, completion_tokens=5)


def passed(stream: bytes, *cuts: int, withhold: bool = True) -> tuple[bytes, Usage]:
    """Return what passes of a stream cut at `cuts`, and the counts read."""
    usage_filter = UsageFilter(withhold=withhold)
    ends = [0, *cuts, len(stream)]
    pieces = [stream[start:end] for start, end in itertools.pairwise(ends)]
    out = b"".join([usage_filter.feed(piece) for piece in pieces]) + usage_filter.finish()
    return out, usage_filter.usage


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([CONTENT, NULL_USAGE, REPORT, DONE], [CONTENT, NULL_USAGE, DONE]),
        ([CONTENT, REPORT], [CONTENT]),
        ([CONTENT, REPORT[:-2]], [CONTENT]),
        ([CONTENT, REPORT, COMMENT, DONE], [CONTENT, COMMENT, DONE]),
        ([CONTENT, REPORT, DONE[:-2]], [CONTENT, DONE[:-2]]),
        ([REPORT, CONTENT, REPORT, DONE], [REPORT, CONTENT, DONE]),
        ([REPORT, COMMENT, REPORT, DONE], [REPORT, COMMENT, DONE]),
    ],
    ids=["usual", "no-done", "unterminated", "comment", "short-done", "twice", "in-a-row"],
)
def test_only_the_last_usage_chunk_is_withheld(
    events: list[bytes], expected: list[bytes], line_end: bytes
) -> None:
    """At every possible cut, all bytes but those of the last usage chunk pass unchanged."""
    stream = b"".join(events).replace(b"\n", line_end)
    wanted = b"".join(expected).replace(b"\n", line_end)
    for cut in range(len(stream) + 1):
        assert passed(stream, cut) == (wanted, COUNTS)
    assert passed(stream, *range(len(stream))) == (wanted, COUNTS)


@pytest.mark.parametrize("withhold", [True, False])
def test_server_that_reports_nothing(withhold: bool) -> None:
    """Without a usage chunk every byte passes and the counts are unknown, not invented."""
    stream = CONTENT + NULL_USAGE + DONE
    assert passed(stream, withhold=withhold) == (stream, UNKNOWN)


def test_client_that_asked_gets_the_chunk() -> None:
    """Where the client asked for usage nothing is withheld, and the counts are read."""
    stream = CONTENT + REPORT + DONE
    assert passed(stream, withhold=False) == (stream, COUNTS)


def test_usage_beside_choices_passes() -> None:
    """A usage object in a chunk that has choices is read, and the chunk passes."""
    chunk = b'data: {"choices":[{}],"usage":{"prompt_tokens":7,"completion_tokens":5}}\n\n'
    assert passed(chunk + DONE) == (chunk + DONE, COUNTS)


def test_events_are_not_delayed() -> None:
    """Each whole event passes as soon as its last byte has come."""
    usage_filter = UsageFilter(withhold=True)
    assert usage_filter.feed(CONTENT) == CONTENT
    assert usage_filter.feed(NULL_USAGE[:-1]) == b""
    assert usage_filter.feed(NULL_USAGE[-1:]) == NULL_USAGE


def test_broken_stream_ends_between_events() -> None:
    """After a break the unfinished event is dropped, so that an error event can follow."""
    usage_filter = UsageFilter(withhold=True)
    assert usage_filter.feed(CONTENT + b"data: {") == CONTENT
    assert usage_filter.abort() == b""
    oversized = UsageFilter(withhold=True)
    assert len(oversized.feed(b"data: " + b"x" * 2**21)) > 2**21
    assert oversized.abort() == b"\n\n"


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 5}}, COUNTS),
        ({"usage": {"prompt_tokens": 7}}, Usage(prompt_tokens=7)),
        ({"usage": {"prompt_tokens": "7", "completion_tokens": True}}, UNKNOWN),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 10**15}}, UNKNOWN),
        ({"usage": {"prompt_tokens": 10**29, "completion_tokens": 10**400}}, UNKNOWN),
        ({"usage": {"prompt_tokens": 10**9, "completion_tokens": 0}}, Usage(10**9, 0)),
        ({"usage": None}, None),
        ([], None),
        (None, None),
    ],
)
def test_counts_of_a_whole_body(body: object, usage: Usage | None) -> None:
    """Counts are taken where they are integers that may be; anything else is unknown."""
    assert read_usage(body) == usage


def test_pieces_of_text_are_counted() -> None:
    """Only events that carry text count: no role, no end, no report, no text that looks like one."""
    usage_filter = UsageFilter(withhold=True)
    quoted = json.dumps({"choices": [{"delta": {"refusal": '"text": "x"'}}]}).encode()
    others = [
        b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
        b'{"choices":[{"delta":{},"finish_reason":"stop"}]}',
        b'{"choices":[{"text":"","finish_reason":"length"}]}',
        b'{"choices":[{"delta":{"content":null}}]}',
        quoted,
    ]
    for data in [b'{"choices":[{"text" : "a"}]}', *others]:
        usage_filter.feed(b"data: " + data + b"\n\n")
    usage_filter.feed(CONTENT + NULL_USAGE + COMMENT + REPORT + DONE)
    assert usage_filter.num_text_pieces == 3
