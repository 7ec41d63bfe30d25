"""The client towards replicas: every way an HTTP/1.1 answer may come, or not come."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import Peer, scripted
from upstream_under_test import (
    HELLO,
    OK,
    STREAM,
    answering,
    ask,
    event_loop_policy,  # noqa: F401 - every test runs on both loops
    opened,
    read_all,
)

from router import upstream_connection
from router.errors import ReplicaFailedError, ReplicaTimeoutError, StreamBrokenError
from router.upstream import LARGE_BODY_BYTES

pytestmark = pytest.mark.filterwarnings("ignore:Overriding the .event_loop_policy. fixture")

CHUNKED = (
    OK
    + b"Transfer-Encoding: chunked\r\nX-Kept: 1\r\n\r\n"
    + b"2;a=b\r\nhe\r\n3\r\nllo\r\n0\r\nX-Trailer: 1\r\n\r\n"
)


@pytest.mark.parametrize(
    ("answer", "body", "num_connections"),
    [
        (HELLO, b"hello", 1),
        (CHUNKED, b"hello", 1),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + HELLO,
            b"hello",
            1,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", 1),
        (OK + b"Content-Length: 0\r\n\r\n", b"", 1),
        (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", 2),
        (HELLO + b"HTTP/1.1 200 OK\r\n", b"hello", 2),
        (HELLO + b"garbage", b"hello", 2),
    ],
    ids=["length", "chunked", "1xx", "204", "empty", "close", "1.0", "second-answer", "garbage"],
)
async def test_answers(answer: bytes, body: bytes, num_connections: int) -> None:
    """The body comes as framed, and the connection is used again only where that is safe."""
    async with scripted(answering(answer, answer)) as server, opened() as upstream:
        for _ in range(2):
            reply = await ask(upstream, server.url)
            assert (reply.body, reply.is_stream) == (body, False)
            assert reply.status in (200, 204)
            assert all(name == name.lower() for name, _ in reply.headers)
            assert b"x-trailer" not in dict(reply.headers)
    assert server.num_connections == num_connections


async def test_a_body_without_length_ends_with_the_connection() -> None:
    """Its end is the replica's close."""
    async with scripted(answering(OK + b"\r\nhello")) as server, opened() as upstream:
        assert (await ask(upstream, server.url)).body == b"hello"
        assert (await ask(upstream, server.url)).body == b"hello"
    assert server.num_connections == 2


@pytest.mark.parametrize("num_chunks", [2, 3])
async def test_an_answer_that_grows_too_long_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, num_chunks: int
) -> None:
    """Even if its end has come meanwhile; nothing of it is handed on."""
    monkeypatch.setattr(upstream_connection, "MOST_BODY_BYTES", 10)
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nhello\r\n" * num_chunks
    async with scripted(answering(chunked + b"0\r\n\r\n")) as server, opened() as upstream:
        if num_chunks == 2:
            assert (await ask(upstream, server.url)).body == b"hellohello"
            return
        with pytest.raises(ReplicaFailedError, match="the answer is over 10 bytes"):
            await ask(upstream, server.url)


@pytest.mark.parametrize("path", ["/v1/completions", "/health"])
async def test_an_endless_answer_is_cut_off(path: str) -> None:
    """Its connection is closed, so that the replica stops; checks are no exception."""
    is_stopped = asyncio.Event()
    piece = b"100000\r\n" + b"x" * 2**20 + b"\r\n"

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(1000):
                await peer.send(piece)
        except ConnectionError:
            is_stopped.set()

    async with scripted(script) as server, opened() as upstream:
        asking = {
            "/health": lambda: upstream.get_json(server.url, path, timeout_seconds=30),
            "/v1/completions": lambda: ask(upstream, server.url),
        }
        with pytest.raises(ReplicaFailedError, match="the answer is over 67108864 bytes"):
            await asking[path]()
        async with asyncio.timeout(10):
            await is_stopped.wait()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(cuts=st.lists(st.integers(1, 150), max_size=8), answer=st.sampled_from([CHUNKED, HELLO]))
async def test_where_packets_end_makes_no_difference(cuts: list[int], answer: bytes) -> None:
    """Any cut of the bytes gives the same answer and leaves the connection usable."""
    edges = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    pieces = [answer[start:end] for start, end in pairwise(edges)]

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.read_request()
            await peer.send(*pieces)

    async with scripted(script) as server, opened() as upstream:
        replies = [await ask(upstream, server.url) for _ in range(2)]
    assert [(reply.status, reply.body) for reply in replies] == [(200, b"hello")] * 2
    assert server.num_connections == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 O",
        b"\x00garbage\r\n\r\n",
        OK + b"Content-Length: 9\r\n\r\nhello",
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
        OK + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello",
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        STREAM + b"0\r\n\r\n",
        b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["nothing", "head", "garbage", "short", "chunk", "size", "both", "101", "empty", "503"],
)
async def test_what_is_no_answer_fails_the_replica(answer: bytes) -> None:
    """Nothing of it is sent again: the connection was new, so the replica is at fault."""
    async with scripted(answering(answer)) as server, opened() as upstream:
        with pytest.raises(ReplicaFailedError):
            await ask(upstream, server.url)
    assert server.num_connections == 1


async def test_an_endless_head_is_refused() -> None:
    """A replica cannot fill the memory with headers."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(OK)
        while True:
            await peer.send(b"X-More: 1234567890\r\n" * 1000)

    async with scripted(script) as server, opened() as upstream:
        with pytest.raises(ReplicaFailedError, match="the head is over 65536 bytes"):
            await ask(upstream, server.url)


async def test_a_stale_connection_is_replaced_once() -> None:
    """What a kept connection does not answer is sent again, on a new one, and on no third."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        if peer.number == 2:
            return
        await peer.send(HELLO)
        await peer.read_request()

    async with scripted(script) as server, opened() as upstream:
        for _ in range(2):
            assert (await ask(upstream, server.url)).body == b"hello"
        assert server.num_connections == 2
        with pytest.raises(ReplicaFailedError):
            await ask(upstream, server.url)
    assert server.num_connections == 3


async def test_a_begun_answer_is_not_asked_for_again() -> None:
    """A kept connection that breaks within an answer fails the replica."""
    async with scripted(answering(HELLO, b"HTTP/1.1 2")) as server, opened() as upstream:
        await ask(upstream, server.url)
        with pytest.raises(ReplicaFailedError, match="before the end of its answer"):
            await ask(upstream, server.url)
    assert server.num_connections == 1


async def test_bytes_nobody_asked_for_close_an_idle_connection() -> None:
    """They are never taken for the next request's answer."""
    is_told = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(HELLO)
        if peer.number == 0:
            await asyncio.sleep(0.02)
            await peer.send(OK + b"Content-Length: 4\r\n\r\nevil")
            assert await peer.reader.read() == b""
            is_told.set()

    async with scripted(script) as server, opened() as upstream:
        await ask(upstream, server.url)
        await asyncio.wait_for(is_told.wait(), 10)
        assert (await ask(upstream, server.url)).body == b"hello"
    assert server.num_connections == 2


async def test_idle_connections_are_closed_in_time() -> None:
    """What is used again stays; what is not is closed."""
    is_closed = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(HELLO)
        assert await peer.reader.read() == b""
        is_closed.set()

    async with scripted(script) as server, opened(kept_seconds=0.05) as upstream:
        await ask(upstream, server.url)
        await asyncio.wait_for(is_closed.wait(), 10)


async def test_a_stream_is_given_piece_by_piece() -> None:
    """The first piece comes before the stream has ended; the connection is kept after its end."""
    go_on = asyncio.Event()

    async def script(peer: Peer) -> None:
        for _ in range(2):
            await peer.read_request()
            await peer.send(STREAM, b"5\r\nfirst\r\n")
            await go_on.wait()
            await peer.send(b"4\r\nlast\r\n0\r\n\r\n")

    async with scripted(script) as server, opened() as upstream:
        reply = await ask(upstream, server.url)
        assert (reply.is_stream, reply.body) == (True, b"first")
        go_on.set()
        assert await read_all(reply) == b"firstlast"
        reply.close()
        assert await read_all(await ask(upstream, server.url)) == b"firstlast"
    assert server.num_connections == 1


async def test_a_reader_that_waits_makes_the_replica_wait() -> None:
    """A long stream is not taken into memory, and is whole for a slow reader."""
    num_written, num_bytes = 0, 64 << 20
    chunk = b"%x\r\n" % (1 << 16) + b"x" * (1 << 16) + b"\r\n"

    async def script(peer: Peer) -> None:
        nonlocal num_written
        await peer.read_request()
        await peer.send(STREAM)
        while num_written < num_bytes:
            await peer.send(chunk)
            num_written += 1 << 16
        await peer.send(b"0\r\n\r\n")

    async with scripted(script) as server, opened() as upstream:
        reply = await ask(upstream, server.url)
        before = -1
        while num_written > before:  # until the replica stands still
            before = num_written
            await asyncio.sleep(0.2)
        assert num_written < num_bytes // 2
        num_read = len(reply.body)
        while piece := await reply.read_more():
            num_read += len(piece)
    assert num_read == num_bytes


async def test_a_broken_stream_gives_what_came_and_then_the_error() -> None:
    """A cut is never taken for the end."""
    async with (
        scripted(answering(STREAM + b"5\r\nfirst\r\n5\r\nsec")) as server,
        opened() as upstream,
    ):
        reply = await ask(upstream, server.url)
        with pytest.raises(StreamBrokenError, match="before the end of its answer"):
            await read_all(reply)


@pytest.mark.parametrize("num_bytes", [LARGE_BODY_BYTES - 1, LARGE_BODY_BYTES, 9 << 20])
async def test_large_bodies_arrive_whole(num_bytes: int) -> None:
    """Also at a replica that reads slowly."""
    body = bytes(range(256)) * (num_bytes // 256) + b"x" * (num_bytes % 256)
    received = []

    async def script(peer: Peer) -> None:
        for _ in range(2):
            received.append(await peer.read_request())
            await peer.send(HELLO)

    async with scripted(script) as server, opened() as upstream:
        for _ in range(2):
            assert (await ask(upstream, server.url, body)).status == 200
    assert received == [body] * 2
    assert server.num_connections == 1


async def test_an_answer_before_the_end_of_the_body() -> None:
    """It is taken; the rest is not sent, and the connection not used again."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        assert len(await peer.reader.read()) < 64 << 20

    async with scripted(script) as server, opened() as upstream:
        for _ in range(2):
            reply = await ask(upstream, server.url, bytes(64 << 20))
            assert (reply.status, reply.body) == (413, b"no")
    assert server.num_connections == 2


async def test_cancelling_closes_the_connection() -> None:
    """The replica learns that nobody waits any more, before the first byte and after it."""
    num_gone = 0

    async def script(peer: Peer) -> None:
        nonlocal num_gone
        await peer.read_request()
        if peer.number:
            await peer.send(STREAM, b"5\r\nfirst\r\n")
        assert await peer.reader.read() == b""
        num_gone += 1

    async with scripted(script) as server, opened() as upstream:
        waiting = asyncio.create_task(ask(upstream, server.url))
        while not server.num_connections:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        (await ask(upstream, server.url)).close()
        async with asyncio.timeout(10):
            while num_gone < 2:
                await asyncio.sleep(0.01)


async def test_silence_is_bounded() -> None:
    """Before the first byte, and between two pieces, but not while the reader is the slow one."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        if peer.number:
            await peer.send(STREAM, b"1\r\na\r\n", b"1\r\nb\r\n")
        await peer.reader.read()

    async with (
        scripted(script) as server,
        opened(first_byte_seconds=0.3, idle_seconds=0.3) as upstream,
    ):
        with pytest.raises(ReplicaTimeoutError, match=r"no first byte within 0\.3 seconds"):
            await ask(upstream, server.url)
        reply = await ask(upstream, server.url)
        read = reply.body
        while len(read) < 2:
            read += await reply.read_more()
            await asyncio.sleep(0.7)
        with pytest.raises(StreamBrokenError, match=r"nothing came for 0\.3 seconds"):
            await reply.read_more()
        reply.close()


async def test_a_closed_port_fails_at_once() -> None:
    """No connection, no answer."""
    async with scripted(answering()) as server:
        url = server.url
    async with opened() as upstream:
        with pytest.raises(ReplicaFailedError, match="ConnectionRefusedError"):
            await ask(upstream, url)


async def test_headers_cannot_be_smuggled() -> None:
    """A line end within a header is our own bug and sends nothing."""
    async with scripted(answering(HELLO)) as server, opened() as upstream:
        with pytest.raises(ValueError, match="line end"):
            await upstream.send(server.url, "/", headers=(("a", "b\r\nc: d"),), body=b"")
    assert server.num_connections == 0
