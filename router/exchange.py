"""The ASGI side of one exchange: headers, request ids and bodies."""

import asyncio
import itertools
import json
import logging
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.error_answers import error_body, status_of
from router.errors import BodyTooLargeError, ClientGoneError, LimitError, RouterError

logger = logging.getLogger(__name__)

RawHeaders = list[tuple[bytes, bytes]]

FAREWELL_SECONDS = 5.0
"""For an error to reach a client that has stopped reading; then the connection is closed."""

COMPLETION_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})

_ANY_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_PER_CONNECTION = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_NOT_SENT_UP = _PER_CONNECTION | {
    b"accept-encoding",
    b"content-length",
    b"expect",
    b"host",
    b"x-motley-goals",
    b"x-request-id",
}
_NOT_SENT_BACK = _PER_CONNECTION | {b"content-length", b"date", b"server", b"x-request-id"}


class RequestIds:
    """Gives every exchange an id and every answer the header `x-request-id`.

    The client's own id is kept if it is up to 128 letters, digits or `._:/+=-`. Inner applications
    read it with `request_id`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        # Numbers after a random beginning: asking the system for each id costs more.
        self._beginning = f"req-{secrets.token_hex(12)}"
        self._numbers = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope["headers"], b"x-request-id").decode("latin-1")
        own = given if _ANY_REQUEST_ID.fullmatch(given) else self._new_id()
        scope["router.request_id"] = own

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["router.has_begun"] = True
                headers = [*message.get("headers", ()), (b"x-request-id", own.encode("latin-1"))]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_id)

    def _new_id(self) -> str:
        return f"{self._beginning}{next(self._numbers):08x}"


class DataPath:
    """Takes completion requests past the routing, middleware and objects of everything else.

    They cost a tenth of a completion's processor time.
    """

    def __init__(self, completions: ASGIApp, application: ASGIApp) -> None:
        """Give `completions` the requests to COMPLETION_PATHS, `application` all others."""
        self._completions = completions
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner application; a bug in `completions` is answered and raised again."""
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or scope["path"] not in COMPLETION_PATHS
        ):
            await self._application(scope, receive, send)
            return
        try:
            await self._completions(scope, receive, send)
        except Exception:
            if "router.has_begun" not in scope:
                await send_error(send, RouterError("internal error; see the router's log"))
            raise


def request_id(scope: Scope) -> str:
    """Return the exchange's id."""
    return str(scope["router.request_id"])


def target(scope: Scope) -> str:
    """Return path and query string as the client sent them."""
    query = scope["query_string"].decode("latin-1")
    path = str(scope["path"])
    return f"{path}?{query}" if query else path


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes:
    """Return the first header of that name (lower case), or nothing."""
    for key, value in headers:
        if key == name:
            return value
    return b""


def headers_for_replica(scope: Scope) -> tuple[tuple[str, str], ...]:
    """Return the client's headers without those of its connection, plus the request's id.

    Compression is not asked for: token counts are read from what comes back.
    """
    skipped = _NOT_SENT_UP | _named_by_connection(scope["headers"])
    kept = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in scope["headers"]
        if name not in skipped
    ]
    own = [("accept-encoding", "identity"), ("x-request-id", request_id(scope))]
    return tuple(kept + own)


def headers_for_client(headers: Iterable[tuple[bytes, bytes]]) -> RawHeaders:
    """Return a replica's headers without those of its connection, length and identity."""
    lowered = [(name.lower(), value) for name, value in headers]
    skipped = _NOT_SENT_BACK | _named_by_connection(lowered)
    return [(name, value) for name, value in lowered if name not in skipped]


async def read_body(scope: Scope, receive: Receive, *, max_body_bytes: int) -> bytes:
    """Return the request's body.

    Raises:
        BodyTooLargeError: If it is, or says it is, longer than `max_body_bytes`.
        ClientGoneError: If the client leaves first.
    """
    declared = header(scope["headers"], b"content-length")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise BodyTooLargeError(max_body_bytes=max_body_bytes)
    pieces = []
    num_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        num_bytes += len(piece)
        if num_bytes > max_body_bytes:
            raise BodyTooLargeError(max_body_bytes=max_body_bytes)
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


async def send_whole(send: Send, status: int, headers: RawHeaders, body: bytes) -> None:
    """Send an answer that is not streamed."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})


async def send_error(
    send: Send, error: RouterError, headers: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send an error as OpenAI's body, with `headers` besides its own."""
    headers = [(b"content-type", b"application/json"), *error_headers(error), *headers]
    await send_whole(send, status_of(error), headers, json.dumps(error_body(error)).encode())


async def say_farewell(error: RouterError, tell: Callable[[RouterError], Awaitable[None]]) -> None:
    """End a request with `error`: have `tell` tell the client, in time or not at all."""
    logger.info("request failed status=%d problem=%s", status_of(error), error)
    with suppress(TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            await tell(error)


def error_headers(error: RouterError) -> RawHeaders:
    """Return the headers an error's answer carries besides its type."""
    seconds = error.retry_after_seconds
    if seconds is not None:
        return [(b"retry-after", str(math.ceil(seconds)).encode()), *error.headers]
    is_hopeless = isinstance(error, LimitError)
    if status_of(error) in (429, 503) and not is_hopeless:
        return [(b"retry-after", b"1"), *error.headers]
    return [*error.headers]


def _named_by_connection(headers: Iterable[tuple[bytes, bytes]]) -> set[bytes]:
    return {word.strip().lower() for word in header(headers, b"connection").split(b",")}
