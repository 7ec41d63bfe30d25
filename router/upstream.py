"""Requests to replicas: the router's only HTTP client.

It is our own because of what a request costs: about a fifth of aiohttp's processor time
(`make bench NAME=router`). Bodies pass as they are on the wire: no decompression, no redirects, no
cookies, no proxies of the environment, and no header beyond those it is given but `host` and
`content-length`.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from router.config import TimeoutsConfig
from router.errors import (
    ReplicaFailedError,
    ReplicaLeftError,
    ReplicaTimeoutError,
    StreamBrokenError,
)
from router.replica_keys import ReplicaKeys
from router.spool import Spool
from router.upstream_connection import Connection, Exchange, LeaveError
from router.upstream_pool import Origin, Pool

FAILED_STATUSES = frozenset({502, 503, 504})
"""Answers that say the replica, not the request, is at fault."""
REFUSED_KEY_STATUSES = frozenset({401, 403})
"""Where the key is the router's, no client can mend them."""
OK_STATUS = 200
LARGE_BODY_BYTES = 2**19
"""From here on a body is written piece by piece, so that other requests get their turn."""
_PIECE_BYTES = 2**18
_BODILESS = frozenset({"GET", "HEAD", "DELETE"})

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
    content: dict[str, object] | None = field(default=None, repr=False, kw_only=True)
    """The parsed body, once it has been found to be an answer that is not streamed."""
    idle_seconds: float
    _exchange: Exchange = field(repr=False)
    _waits_since: float | None = field(default=None, repr=False)
    _timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    async def read_more(self) -> bytes:
        """Return a stream's next piece, or nothing at its proper end.

        Raises:
            StreamBrokenError: If the stream breaks or stays silent too long.
        """
        loop = asyncio.get_running_loop()
        self._waits_since = loop.time()
        if self._timer is None:
            # One timer a stream, not one a piece: it looks how long the last wait has lasted.
            self._timer = loop.call_later(self.idle_seconds, self._check_silence)
        try:
            return await self._exchange.read_more()
        except TimeoutError:
            problem = f"nothing came for {self.idle_seconds:g} seconds"
            raise StreamBrokenError(self.url, problem) from None
        except OSError as error:
            raise StreamBrokenError(self.url, _describe(error)) from None
        finally:
            self._waits_since = None

    def close(self) -> None:
        """End the exchange; what the replica is still working on is cancelled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._exchange.close()

    def _check_silence(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        silent_seconds = 0.0 if self._waits_since is None else now - self._waits_since
        if silent_seconds >= self.idle_seconds:
            self._exchange.fail(TimeoutError())
        else:
            self._timer = loop.call_later(self.idle_seconds - silent_seconds, self._check_silence)


class Upstream:
    """Sends requests over kept connections, without a limit on their number.

    Args:
        pool: The connections.
        timeouts: How long to wait.
        keys: The replicas' own; None: clients' keys pass unchanged, and checks carry none.
    """

    def __init__(
        self, pool: Pool, timeouts: TimeoutsConfig, *, keys: ReplicaKeys | None = None
    ) -> None:
        self._pool = pool
        self._origins: dict[str, Origin] = {}
        self._keys = keys or ReplicaKeys()
        self.configure(timeouts)

    def configure(self, timeouts: TimeoutsConfig) -> None:
        """Go by other settings from the next request on."""
        self._timeouts = timeouts

    @property
    def first_byte_seconds(self) -> float:
        """How long an answer's first byte may take, as configured."""
        return self._timeouts.first_byte_seconds

    async def send(
        self,
        url: str,
        target: str,
        *,
        headers: tuple[tuple[str, str], ...],
        body: bytes | Spool,
        method: str = "POST",
        timeout_seconds: float | None = None,
        waiting: set[Exchange] | None = None,
    ) -> UpstreamReply:
        """Return the answer of the replica at `url`, as soon as its first byte has arrived.

        Args:
            url: The replica.
            target: Path and query.
            headers: All but those of the connection; the replica's own key is added.
            body: May be sent several times.
            method: HTTP's.
            timeout_seconds: Until the first byte; None: as configured.
            waiting: Holds the exchange until the first byte; one that fails there with `LeaveError`
                is left.

        Raises:
            ReplicaError: If there is none, or if it is a 502, 503 or 504; another replica may do.
        """
        seconds = timeout_seconds or self.first_byte_seconds
        headers = self._keys.request_headers(url, headers)
        try:
            reply = await self._ask(url, target, headers, body, method, seconds, waiting)
        except TimeoutError:
            problem = f"sent no first byte within {seconds:g} seconds"
            raise ReplicaTimeoutError(url, problem) from None
        if reply.status in FAILED_STATUSES:
            reply.close()
            raise ReplicaFailedError(url, f"answered {reply.status}")
        if reply.status in REFUSED_KEY_STATUSES and self._keys.has_own(url):
            reply.close()
            problem = f"answered {reply.status} to the router's own key, see its api_key_file"
            raise ReplicaFailedError(url, problem)
        if reply.status != OK_STATUS:
            reply.body = self._keys.masked(url, reply.body)
        return reply

    async def get_json(self, url: str, path: str, *, timeout_seconds: float) -> tuple[int, object]:
        """Return status and parsed body (None if it is no JSON) of a control request.

        Raises:
            ReplicaError: If there is no answer in time.
        """
        try:
            reply = await self._ask(
                url, path, self._keys.check_headers(url), b"", "GET", timeout_seconds
            )
        except TimeoutError:
            problem = f"did not answer {path} within {timeout_seconds:g} seconds"
            raise ReplicaTimeoutError(url, problem) from None
        reply.close()
        return reply.status, _parsed(reply.body)

    def without_keys(self) -> "Upstream":
        """Return a client over the same connections for servers that are no replicas: it adds no key."""
        return Upstream(self._pool, self._timeouts)

    async def _ask(
        self,
        url: str,
        target: str,
        headers: tuple[tuple[str, str], ...],
        body: bytes | Spool,
        method: str,
        seconds: float,
        waiting: set[Exchange] | None = None,
    ) -> UpstreamReply:
        """Send a request, a second time where a kept connection turns out to be closed.

        Raises:
            TimeoutError: If nothing has come within `seconds`.
            ReplicaError: If there will be no answer.
        """
        origin = self._origins.get(url)
        if origin is None:
            origin = self._origins[url] = Origin.of(url)
        head = _head(origin, method, target, headers, body)
        deadline = asyncio.get_running_loop().time() + seconds
        connection = self._pool.take(origin)
        while True:
            if connection is None:
                connection = await self._connect(url, origin, deadline)
            exchange = _start(connection, head, body)
            try:
                first = await _begun(exchange, deadline, waiting)
            except TimeoutError:
                raise
            except LeaveError:
                problem = "had not answered when checks found it down"
                raise ReplicaLeftError(url, problem) from None
            except OSError as error:
                # A kept connection the replica has closed meanwhile says nothing about its health.
                if not connection.is_used or exchange.has_begun:
                    raise ReplicaFailedError(url, f"failed: {_describe(error)}") from None
                logger.debug("stale connection url=%s error=%s", url, _describe(error))
                connection = None
                continue
            return UpstreamReply(
                url=url,
                status=exchange.status,
                headers=exchange.headers,
                is_stream=exchange.is_stream,
                body=first,
                idle_seconds=self._timeouts.idle_seconds,
                _exchange=exchange,
            )

    async def _connect(self, url: str, origin: Origin, deadline: float) -> Connection:
        """Open a connection.

        Raises:
            TimeoutError: If the time for the whole exchange is over.
            ReplicaError: If it is not accepted, or not in time.
        """
        connect_seconds = self._timeouts.connect_seconds
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(deadline, now + connect_seconds)):
                return await self._pool.connect(origin)
        except TimeoutError:
            if deadline <= now + connect_seconds:
                raise
            problem = f"did not accept a connection within {connect_seconds:g} seconds"
            raise ReplicaTimeoutError(url, problem) from None
        except OSError as error:
            raise ReplicaFailedError(url, f"failed: {_describe(error)}") from None


@asynccontextmanager
async def open_upstream(
    timeouts: TimeoutsConfig, *, keys: ReplicaKeys | None = None
) -> AsyncGenerator[Upstream]:
    """Yield a client; its connections are closed at the end."""
    pool = Pool()
    try:
        yield Upstream(pool, timeouts, keys=keys)
    finally:
        pool.close()
        await asyncio.sleep(0)  # for the transports to be gone


def _head(
    origin: Origin,
    method: str,
    target: str,
    headers: tuple[tuple[str, str], ...],
    body: bytes | Spool,
) -> bytes:
    """Return request line and headers.

    Raises:
        ValueError: If one of them holds a line end.
    """
    lines = [f"{method} {origin.path}{target} HTTP/1.1\r\nhost: {origin.host_header}"]
    lines += [f"{name}: {value}" for name, value in headers]
    num_bytes = body.num_bytes if isinstance(body, Spool) else len(body)
    if num_bytes or method not in _BODILESS:
        lines.append(f"content-length: {num_bytes}")
    head = "\r\n".join(lines) + "\r\n\r\n"
    if head.count("\n") != len(lines) + 2 or head.count("\r") != len(lines) + 2:
        raise ValueError("a target or header holds a line end")
    return head.encode("latin-1")


async def _begun(exchange: Exchange, deadline: float, waiting: set[Exchange] | None) -> bytes:
    """Return the whole body, or the first piece of a stream, as soon as it is there.

    Raises:
        OSError: If it will not come, or not in time.
    """
    timer = asyncio.get_running_loop().call_at(deadline, exchange.fail, TimeoutError())
    if waiting is not None:
        waiting.add(exchange)
    try:
        first = await exchange.begin()
    except BaseException:
        exchange.close()
        raise
    finally:
        timer.cancel()
        if waiting is not None:
            waiting.discard(exchange)
    if exchange.is_stream and not first:
        raise ConnectionError("the stream ended before its first byte")
    return first


def _start(connection: Connection, head: bytes, body: bytes | Spool) -> Exchange:
    if isinstance(body, bytes) and len(body) < LARGE_BODY_BYTES:
        return connection.start(head, body)
    exchange = connection.start(head, None)
    pieces = body.pieces() if isinstance(body, Spool) else _pieces(body)
    exchange.sender = asyncio.create_task(connection.send_body(exchange, pieces))
    return exchange


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    view = memoryview(body)
    for start in range(0, len(body), _PIECE_BYTES):
        yield view[start : start + _PIECE_BYTES]
        await asyncio.sleep(0)


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _describe(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())
