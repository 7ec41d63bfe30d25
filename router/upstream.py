"""Requests to replicas: the router's only HTTP client."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import aiohttp
from yarl import URL

from router.config import TimeoutsConfig
from router.errors import (
    ReplicaFailedError,
    ReplicaTimeoutError,
    StreamBrokenError,
)
from router.spool import Spool

FAILED_STATUSES = frozenset({502, 503})
"""Answers that say the replica, not the request, is at fault."""
LARGE_BODY_BYTES = 2**19
"""From here on a body is written piece by piece, so that other requests get their turn."""
MAX_STALE_CONNECTIONS = 8
"""Kept connections found closed by the replica, before a request gives up on it."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class UpstreamReply:
    """A replica's answer: the whole of it, or a stream of which the first piece has arrived."""

    url: str
    """The replica."""
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    is_stream: bool
    """Whether it is a stream of server-sent events."""
    body: bytes
    """The whole body, or the first piece of a stream."""
    idle_seconds: float
    _response: aiohttp.ClientResponse = field(repr=False)

    async def read_more(self) -> bytes:
        """Return a stream's next piece, or nothing at its proper end.

        Raises:
            StreamBrokenError: If the stream breaks or stays silent too long.
        """
        try:
            async with asyncio.timeout(self.idle_seconds):
                return await self._response.content.readany()
        except TimeoutError:
            problem = f"nothing came for {self.idle_seconds:g} seconds"
            raise StreamBrokenError(self.url, problem) from None
        except (aiohttp.ClientError, OSError) as error:
            raise StreamBrokenError(self.url, _describe(error)) from None

    def close(self) -> None:
        """End the exchange; what the replica is still working on is cancelled."""
        self._response.close()


class Upstream:
    """Sends requests over kept connections, without a limit on their number."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        timeouts: TimeoutsConfig,
        *,
        control_key: str | None = None,
    ) -> None:
        self._session = session
        self.configure(timeouts, control_key=control_key)

    def configure(self, timeouts: TimeoutsConfig, *, control_key: str | None) -> None:
        """Go by other settings from the next request on."""
        self._control_headers = (
            {} if control_key is None else {"authorization": f"Bearer {control_key}"}
        )
        self._timeouts = timeouts
        self._client_timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=timeouts.connect_seconds
        )

    async def send(
        self,
        url: str,
        target: str,
        *,
        headers: tuple[tuple[str, str], ...],
        body: bytes | Spool,
        method: str = "POST",
        timeout_seconds: float | None = None,
    ) -> UpstreamReply:
        """Return the answer of the replica at `url`, as soon as its first byte has arrived.

        Args:
            url: The replica.
            target: Path and query.
            headers: All but those of the connection.
            body: May be sent several times.
            method: HTTP's.
            timeout_seconds: Until the first byte; None: as configured.

        Raises:
            ReplicaError: If there is none, or if it is a 502 or 503; another replica may do.
        """
        seconds = timeout_seconds or self._timeouts.first_byte_seconds
        try:
            async with asyncio.timeout(seconds):
                response = await self._open(method, URL(url + target, encoded=True), headers, body)
                reply = await self._begin(url, response)
        except aiohttp.ConnectionTimeoutError:
            connect_seconds = self._timeouts.connect_seconds
            problem = f"did not accept a connection within {connect_seconds:g} seconds"
            raise ReplicaTimeoutError(url, problem) from None
        except TimeoutError:
            problem = f"sent no first byte within {seconds:g} seconds"
            raise ReplicaTimeoutError(url, problem) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ReplicaFailedError(url, f"failed: {_describe(error)}") from None
        if reply.status in FAILED_STATUSES:
            reply.close()
            raise ReplicaFailedError(url, f"answered {reply.status}")
        return reply

    async def get_json(self, url: str, path: str, *, timeout_seconds: float) -> tuple[int, object]:
        """Return status and parsed body (None if it is no JSON) of a control request.

        Raises:
            ReplicaError: If there is no answer in time.
        """
        try:
            async with asyncio.timeout(timeout_seconds):
                target = URL(url + path, encoded=True)
                async with self._session.get(
                    target, headers=self._control_headers, allow_redirects=False
                ) as response:
                    body = await response.read()
        except TimeoutError:
            problem = f"did not answer {path} within {timeout_seconds:g} seconds"
            raise ReplicaTimeoutError(url, problem) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ReplicaFailedError(url, f"failed: {_describe(error)}") from None
        return response.status, _parsed(body)

    async def _open(
        self, method: str, target: URL, headers: tuple[tuple[str, str], ...], body: bytes | Spool
    ) -> aiohttp.ClientResponse:
        if isinstance(body, Spool):
            headers = (*headers, ("content-length", str(body.num_bytes)))
        for _ in range(MAX_STALE_CONNECTIONS):
            connection = SimpleNamespace(is_reused=False)
            try:
                return await self._session.request(
                    method,
                    target,
                    data=_payload(body),
                    headers=headers,
                    allow_redirects=False,
                    timeout=self._client_timeout,
                    trace_request_ctx=connection,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # A kept connection the replica has closed meanwhile says nothing about its health.
                if not connection.is_reused:
                    raise
                logger.debug("stale connection target=%s error=%s", target, _describe(error))
        raise aiohttp.ServerDisconnectedError("every kept connection was closed")

    async def _begin(self, url: str, response: aiohttp.ClientResponse) -> UpstreamReply:
        """Read a whole answer, or a stream's first piece; close the response if that fails."""
        is_stream = response.status == 200 and response.content_type == "text/event-stream"
        try:
            if is_stream:
                body = await response.content.readany()
            else:
                body = await response.read()
        except BaseException:
            response.close()
            raise
        if is_stream and not body:
            raise aiohttp.ServerDisconnectedError("the stream ended before its first byte")
        return UpstreamReply(
            url=url,
            status=response.status,
            headers=tuple(response.raw_headers),
            is_stream=is_stream,
            body=body,
            idle_seconds=self._timeouts.idle_seconds,
            _response=response,
        )


@asynccontextmanager
async def open_upstream(
    timeouts: TimeoutsConfig, *, control_key: str | None = None
) -> AsyncGenerator[Upstream]:
    """Yield a client; its connections are closed at the end. The key is sent with checks only.

    Bodies pass as they are on the wire: no decompression, no redirects, no cookies, no proxies of
    the environment, and no header the client did not send.
    """
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(_note_reuse)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        trace_configs=[tracing],
    ) as session:
        yield Upstream(session, timeouts, control_key=control_key)


async def _note_reuse(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    if context.trace_request_ctx is not None:
        context.trace_request_ctx.is_reused = True


def _payload(body: bytes | Spool) -> bytes | io.BytesIO | AsyncIterator[bytes]:
    if isinstance(body, Spool):
        return body.pieces()
    return body if len(body) < LARGE_BODY_BYTES else io.BytesIO(body)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
