"""One kept connection to a replica: HTTP/1.1's client side over asyncio and llhttp.

The parser calls `on_*` as bytes arrive; they fill in the `Exchange` of the request under way. Once an
answer is complete the connection is handed back, unless it cannot be used again: the replica wants
it closed, bytes came that nobody asked for, or the request had not been sent to its end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

MOST_BUFFERED_BYTES = 2**16
"""Of a stream that its reader has not taken; beyond them the replica has to wait."""
MOST_BODY_BYTES = 64 * 2**20
"""Of an answer that is not a stream, which is kept until it is whole; a longer one fails."""
MOST_HEAD_BYTES = 2**16
"""Of an answer's status line and headers."""
_HEAD_ONLY = frozenset({204, 304})

RawHeaders = tuple[tuple[bytes, bytes], ...]


class LeaveError(ConnectionError):
    """The exchange was ended because checks have found the replica down."""


class Exchange:
    """One answer as it arrives; one task at a time may wait for it."""

    __slots__ = (
        "_connection",
        "_num_bytes",
        "_pieces",
        "_waiter",
        "ends_with_connection",
        "error",
        "has_begun",
        "headers",
        "is_complete",
        "is_stream",
        "sender",
        "status",
    )

    def __init__(self, connection: "Connection") -> None:
        self.status = 0
        self.headers: RawHeaders = ()
        """Names in lower case."""
        self.is_stream = False
        """Whether it is a stream of server-sent events."""
        self.ends_with_connection = False
        """Whether only the end of the connection marks the end of the answer."""
        self.has_begun = False
        """Whether a byte of the answer has come."""
        self.is_complete = False
        self.error: OSError | None = None
        """Why no more will come."""
        self.sender: asyncio.Task[None] | None = None
        """Sends a large body meanwhile; it ends by itself once the exchange does."""
        self._connection: Connection | None = connection
        self._pieces: list[bytes] = []
        self._num_bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    async def begin(self) -> bytes:
        """Return the whole body, or the first piece of a stream, as soon as it is there.

        Raises:
            OSError: If it will not come.
        """
        while not (self.is_complete or (self.is_stream and self._pieces)):
            await self._wait()
        return self._take()

    async def read_more(self) -> bytes:
        """Return the stream's next piece, or nothing at its proper end.

        Raises:
            OSError: If the stream breaks.
        """
        while not (self.is_complete or self._pieces):
            await self._wait()
        return self._take()

    def fail(self, error: OSError) -> None:
        """End the exchange with an error, and its connection; a complete one stays as it is."""
        if self.is_complete or self.error is not None:
            return
        self.error = error
        self.close()
        self._wake()

    def close(self) -> None:
        """Drop the connection if the answer is not complete: the replica stops working on it."""
        connection, self._connection = self._connection, None
        if connection is not None and not self.is_complete:
            connection.abort()

    def add(self, piece: bytes) -> None:
        """Take a piece of the body; make the replica wait if too many are left.

        The exchange fails where the body of an answer that is not a stream grows too long.
        """
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        if self.is_stream:
            if self._num_bytes > MOST_BUFFERED_BYTES and self._connection is not None:
                self._connection.pause_reading()
            self._wake()
        elif self._num_bytes > MOST_BODY_BYTES:
            self._pieces.clear()
            self.fail(ConnectionError(f"the answer is over {MOST_BODY_BYTES} bytes"))

    def complete(self) -> None:
        """Take note that the answer is whole; a failed one stays as it is."""
        if self.error is not None:
            return
        self.is_complete = True
        self._connection = None
        self._wake()

    def _take(self) -> bytes:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._num_bytes > MOST_BUFFERED_BYTES and self._connection is not None:
            self._connection.resume_reading()
        self._num_bytes = 0
        return body

    async def _wait(self) -> None:
        if self.error is not None:
            raise self.error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """A connection that carries one exchange after the other."""

    __slots__ = (
        "_drained",
        "_exchange",
        "_headers",
        "_is_interim",
        "_is_kept",
        "_is_paused",
        "_is_sending",
        "_num_head_bytes",
        "_on_free",
        "_on_lost",
        "_parser",
        "_transport",
        "idle_since",
        "is_lost",
        "is_used",
    )

    def __init__(
        self, on_free: Callable[["Connection"], None], on_lost: Callable[["Connection"], None]
    ) -> None:
        """Tell `on_free` each time an exchange leaves it usable, `on_lost` once, at the end."""
        self.is_lost = False
        self.is_used = False
        """Whether an exchange has been completed on it."""
        self.idle_since = 0.0
        """The loop's time at which it was put aside; the owner's."""
        self._on_free = on_free
        self._on_lost = on_lost
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._num_head_bytes = 0
        self._is_interim = False
        self._is_kept = False
        self._is_sending = False
        self._is_paused = False
        self._drained: asyncio.Future[None] | None = None

    def start(self, head: bytes, body: bytes | None) -> Exchange:
        """Send a request and return its exchange; with None the body is left to `send_body`."""
        assert self._transport is not None
        assert self._exchange is None
        exchange = self._exchange = Exchange(self)
        self._headers = []
        self._num_head_bytes = 0
        self._is_sending = body is None
        self._transport.write(head + body if body else head)
        return exchange

    async def send_body(
        self, exchange: Exchange, pieces: AsyncIterator[bytes | memoryview]
    ) -> None:
        """Send a body piece by piece, as fast as the replica takes it.

        Reading the body may fail: that fails the exchange.
        """
        try:
            async for piece in pieces:
                if self._exchange is not exchange or self._transport is None:
                    return  # answered before its end, or lost
                self._transport.write(piece)
                if self._is_paused:
                    self._drained = asyncio.get_running_loop().create_future()
                    await self._drained
        except OSError as error:
            exchange.fail(error)
        else:
            self._is_sending = False

    def abort(self) -> None:
        """Close the connection at once."""
        self.is_lost = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Let the replica wait."""
        if self._transport is not None and not self.is_lost:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Let it go on."""
        if self._transport is not None and not self.is_lost:
            self._transport.resume_reading()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what has come, and hand the connection back at the end of an answer."""
        exchange = self._exchange
        if exchange is None:
            self.abort()  # nobody asked for anything
            return
        exchange.has_begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            exchange.fail(ConnectionError(f"the answer is no HTTP/1.1: {error}"))
            self.abort()
            return
        if self._exchange is None:
            self._after_answer()
        elif not exchange.status:
            self._num_head_bytes += len(data)
            if self._num_head_bytes > MOST_HEAD_BYTES:
                exchange.fail(ConnectionError(f"the head is over {MOST_HEAD_BYTES} bytes"))

    def eof_received(self) -> None:
        """The replica closes its side; so does the transport, after this."""
        self.is_lost = True

    def connection_lost(self, error: Exception | None) -> None:
        """Tell whoever waits, and the owner."""
        self.is_lost = True
        self._transport = None
        self._resume_sending()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            if error is None and exchange.status and exchange.ends_with_connection:
                exchange.complete()
            elif isinstance(error, OSError):
                exchange.fail(error)
            else:
                where = (
                    "before the end of its answer" if exchange.has_begun else "without an answer"
                )
                exchange.fail(ConnectionResetError(f"the connection was closed {where}"))
        self._on_lost(self)

    def pause_writing(self) -> None:
        """Let `send_body` wait."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Let `send_body` go on."""
        self._is_paused = False
        self._resume_sending()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """An answer begins; one that nobody asked for makes the connection useless."""
        if self._exchange is None:
            self._is_kept = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the head; trailers are dropped."""
        if self._exchange is not None and not self._exchange.status:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Take status, framing and type of the answer; 1xx are only skipped."""
        exchange = self._exchange
        if exchange is None:
            return
        status = self._parser.get_status_code()
        self._is_interim = status < 200
        if self._is_interim:
            self._headers = []
            return
        self._is_kept = self._parser.should_keep_alive()
        content_type = b""
        has_length = status in _HEAD_ONLY
        for name, value in self._headers:
            if name == b"content-type":
                content_type = value
            elif name in (b"content-length", b"transfer-encoding"):
                has_length = True
        exchange.ends_with_connection = not has_length
        exchange.is_stream = status == 200 and _is_event_stream(content_type)
        exchange.headers = tuple(self._headers)
        exchange.status = status

    def on_body(self, body: bytes) -> None:
        """Pass a piece of the body on."""
        if self._exchange is not None:
            self._exchange.add(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if self._is_interim or self._exchange is None:
            return
        exchange, self._exchange = self._exchange, None
        exchange.complete()

    def _after_answer(self) -> None:
        if self._is_kept and not self._is_sending and not self.is_lost:
            self.is_used = True
            self._on_free(self)
        else:
            self.abort()

    def _resume_sending(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)


def _is_event_stream(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"text/event-stream"
