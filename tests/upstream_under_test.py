"""The router's client with given timeouts, and the answers its tests have in common."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvloop
from scripted_server import Peer, Script

from router.config import TimeoutsConfig
from router.upstream import Upstream, UpstreamReply
from router.upstream_pool import Pool

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
STREAM = (
    OK + b"Content-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
)


@pytest.fixture(params=[asyncio.DefaultEventLoopPolicy, uvloop.EventLoopPolicy])
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Return the policy of Python's loop, and of the one the router runs on."""
    policy: asyncio.AbstractEventLoopPolicy = request.param()
    return policy


@asynccontextmanager
async def opened(
    *, tls: ssl.SSLContext | None = None, kept_seconds: float = 15.0, **seconds: float
) -> AsyncIterator[Upstream]:
    """Yield a client with the given timeouts."""
    pool = Pool(tls, kept_seconds=kept_seconds)
    try:
        yield Upstream(pool, TimeoutsConfig.model_validate(seconds))
    finally:
        pool.close()
        await asyncio.sleep(0)


async def ask(upstream: Upstream, url: str, body: bytes = b"{}") -> UpstreamReply:
    """Send a request."""
    return await upstream.send(url, "/v1/completions?a=b", headers=(("x-a", "1"),), body=body)


def answering(*answers: bytes) -> Script:
    """Return a script that gives one answer a request, on every connection the same."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.read_request()
            await peer.send(answer)

    return script


async def read_all(reply: UpstreamReply) -> bytes:
    """Return a stream's bytes."""
    pieces = [reply.body]
    while piece := await reply.read_more():
        pieces.append(piece)
    return b"".join(pieces)
