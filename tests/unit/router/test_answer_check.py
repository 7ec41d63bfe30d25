"""What is an answer, told from its beginning."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.answer_check import MOST_FIRST_EVENT_BYTES, check_answer, may_be_events
from router.errors import ReplicaGarbageError, StreamBrokenError
from router.upstream import UpstreamReply

URL = "http://a"
EVENT = b'data: {"choices":[]}\n\n'


class Pieces:
    """A stream's further pieces, then its end; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.left = list(pieces)

    async def read_more(self) -> bytes:
        piece = self.left.pop(0) if self.left else b""
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        pass


def whole(body: bytes, *, status: int = 200) -> UpstreamReply:
    """Return an answer that is no stream."""
    return UpstreamReply(URL, status, (), False, body, 60.0, Pieces())


def stream(*pieces: bytes | Exception, status: int = 200) -> UpstreamReply:
    """Return a stream that comes in pieces."""
    first, *more = pieces
    assert isinstance(first, bytes)
    return UpstreamReply(URL, status, (), True, first, 60.0, Pieces(*more))


async def checked(reply: UpstreamReply) -> UpstreamReply:
    """Check an answer and return it."""
    try:
        await check_answer(reply)
    finally:
        reply.close()
    return reply


@pytest.mark.parametrize("body", [b'{"choices":[]}', b' {"choices":[{"x":1}],"id":"y"}\n'])
async def test_an_object_with_choices_is_an_answer(body: bytes) -> None:
    """What is in the choices is not judged."""
    assert (await checked(whole(body))).body == body


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "no JSON object"),
        (b"<html>", "no JSON object"),
        (b'{"choices":[', "no JSON object"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b"\xff\xfe", "no JSON object"),
        (b"{}", "no list of choices"),
        (b'{"choices":null}', "no list of choices"),
        (b'{"error":{"message":"x"}}', "no list of choices"),
    ],
)
async def test_other_bodies_are_none(body: bytes, problem: str) -> None:
    """Another replica may do better; the error names this one."""
    with pytest.raises(ReplicaGarbageError, match=problem) as caught:
        await checked(whole(body))
    assert caught.value.url == URL


@pytest.mark.parametrize("status", [201, 400, 404, 429, 500])
async def test_other_statuses_are_not_judged(status: int) -> None:
    """What a replica says with them is its own, streamed or not."""
    await checked(whole(b"<html>", status=status))
    reply = await checked(stream(b"<html>", status=status))
    assert reply.body == b"<html>"


@pytest.mark.parametrize(
    "beginning",
    [
        EVENT,
        EVENT + b'data: {"error":{"code":500}}\n\n',
        EVENT.replace(b"\n", b"\r\n"),
        EVENT.replace(b"\n", b"\r"),
        EVENT.replace(b"\n\n", b"\n\r\n"),
        b"\xef\xbb\xbf" + EVENT,
        b"data:[DONE]\n\n",
        b": a comment\n\n",
        b"event: message\nid: 7\nretry: 5\n" + EVENT,
        b'data: {"error":{"code":400,"message":"x"}}\n\n',
        b'data: {"error":{"code":"invalid","message":"x"}}\n\n',
        b'data: {"error":"overloaded"}\n\n',
        b'data: ["no object"]\n\n',
    ],
)
async def test_streams_that_are_passed_on(beginning: bytes) -> None:
    """An event of JSON, the end, a comment, or an error that is the request's fault."""
    assert (await checked(stream(beginning))).body == beginning


@pytest.mark.parametrize(
    ("pieces", "problem"),
    [
        ((b"<html>",), "what is no event"),
        ((b"dat", b"e: x\n\n"), "what is no event"),
        ((b"HTTP/1.1 200 OK\r\n\r\n",), "what is no event"),
        ((b"data: {half\n\n",), "an event of no JSON"),
        ((b"data: " + b"[" * 60_000 + b"\n\n",), "an event of no JSON"),
        ((b'data: {"error":{"code":500}}\n\n',), "an error of code 500"),
        ((b'event: error\ndata: {"error":\ndata: {"code":503}}\n\n',), "an error of code 503"),
        ((b'data: {"choices"',), "ended a stream within its first event"),
        ((b'data: {"choices":[]}\n',), "ended a stream within its first event"),
        ((b"da", StreamBrokenError(URL, "the connection was cut")), "the connection was cut"),
    ],
)
async def test_streams_that_are_none(pieces: tuple[bytes | Exception, ...], problem: str) -> None:
    """Nothing has gone to the client yet, so the request can go elsewhere."""
    with pytest.raises(ReplicaGarbageError, match=problem):
        await checked(stream(*pieces))


@given(st.lists(st.integers(1, len(EVENT)), max_size=8))
async def test_however_it_is_cut_no_byte_is_lost_or_read_ahead(cuts: list[int]) -> None:
    """The first event is read whole and kept; the rest stays with the exchange."""
    edges = [0, *sorted(set(cuts) | {len(EVENT)})]
    pieces = [EVENT[start:end] for start, end in pairwise(edges)]
    reply = stream(*pieces, b"rest")
    await checked(reply)
    assert reply.body == EVENT
    assert await reply.read_more() == b"rest"
    reply.close()


async def test_a_long_first_event_is_passed_on_unseen() -> None:
    """What is looked at is bounded, and so is what is held back."""
    piece = b"x" * 2**14
    pieces = [b"data: ", *[piece] * 20]
    reply = await checked(stream(*pieces))
    assert MOST_FIRST_EVENT_BYTES < len(reply.body) <= MOST_FIRST_EVENT_BYTES + 2 * len(piece)


@pytest.mark.parametrize(
    "beginning", [b"", b"d", b"\n\ndata:x", b":", b"re", b"\xef", b"\xef\xbb\xbfid"]
)
def test_what_may_become_events(beginning: bytes) -> None:
    """The beginning of a field's name may become one."""
    assert may_be_events(beginning)


@pytest.mark.parametrize("beginning", [b"{", b"data ", b"dates", b"x:", b"\x00"])
def test_what_cannot_become_events(beginning: bytes) -> None:
    """No more bytes would make it one."""
    assert not may_be_events(beginning)


async def test_what_our_own_servers_send_is_an_answer() -> None:
    """The smallest bodies that an OpenAI client reads pass."""
    await checked(whole(json.dumps({"choices": [{"text": "x"}], "usage": None}).encode()))
    await checked(stream(b"data: " + json.dumps({"choices": []}).encode() + b"\n\n"))
