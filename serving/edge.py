"""What every request passes: its id, its key, the drain, and the last place a failure can end."""

import json
import logging
import re
import secrets
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import (
    EngineError,
    ForbiddenError,
    ServingError,
    UnavailableError,
    error_body,
    error_headers,
)
from serving.keys import KeyRing

logger = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/health", "/metrics", "/version"})
"""What probes and scrapers ask without a key, and while the endpoint drains."""

ADMIN_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""What needs an admin's key beside everything under `/admin`."""

SHUTTING_DOWN = "the server is shutting down; retry elsewhere"
"""What new requests and probes are told while the endpoint drains."""

_ERROR_EVENTS = (b'data: {"error":{"message":', b"event: error\n")
"""How the last event of a failed stream begins: of completions and chats, and of responses."""

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)


class Gate:
    """How many requests are inside, whether more are let in, and how many failed."""

    def __init__(self) -> None:
        self.num_running = 0
        """Requests that are being answered, those to open paths left out."""
        self.is_draining = False
        """Whether new requests are sent away."""
        self.errors: Counter[int] = Counter()
        """Requests that ended in an error, by HTTP status."""

    def refusal(self, error: ServingError, request_id: str) -> JSONResponse:
        """Return the answer to a failed request, and count it."""
        status, body = error_body(error)
        self.errors[status] += 1
        if status >= 500:
            logger.warning("request failed request_id=%s error=%s", request_id, error)
        return JSONResponse(body, status, error_headers(error))


class EndpointEdge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, *, gate: Gate, keys: KeyRing) -> None:
        """Wrap `app`."""
        self._app = app
        self._gate = gate
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; nothing but cancellation leaves."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id, self._gate)
        is_open = scope["path"] in OPEN_PATHS
        self._gate.num_running += not is_open
        try:
            if not is_open:
                self._admit(scope, headers)
            await self._app(scope, receive, answer.send)
        except ClientDisconnect:
            logger.debug("client left request_id=%s", request_id)
        except ServingError as error:
            await self._fail(error, scope, receive, answer)
        except Exception as error:  # noqa: BLE001 - the process edge
            # The message may quote the client's text: type and place are logged, not the words.
            place = "".join(traceback.format_tb(error.__traceback__))
            logger.error(
                "request failed unforeseen request_id=%s type=%s\n%s",
                request_id,
                type(error).__name__,
                place,
            )
            failure = EngineError("the server failed; see its log")
            await self._fail(failure, scope, receive, answer)
        finally:
            self._gate.num_running -= not is_open

    def _admit(self, scope: Scope, headers: Headers) -> None:
        """Check key, origin and drain.

        Raises:
            AuthenticationError: Without a known key.
            ForbiddenError: With one that does not suffice, or for the page of another site.
            UnavailableError: While the endpoint drains.
        """
        path: str = scope["path"]
        needs_admin = path in ADMIN_PATHS or path == "/admin" or path.startswith("/admin/")
        self._keys.check(headers.get("authorization"), needs_admin=needs_admin)
        if needs_admin and _is_from_another_site(headers):
            raise ForbiddenError(
                "a web page of another origin asked for this; send the request from a program"
            )
        if self._gate.is_draining:
            raise UnavailableError(SHUTTING_DOWN)

    async def _fail(
        self, error: ServingError, scope: Scope, receive: Receive, answer: "_Answer"
    ) -> None:
        if not answer.is_started:
            response = self._gate.refusal(error, answer.request_id)
            await response(scope, receive, answer.send)
            return
        if answer.is_stream and not answer.is_over:
            event = f"data: {json.dumps(error_body(error)[1], separators=(',', ':'))}\n\n"
            await answer.send({"type": "http.response.body", "body": event.encode()})


def _is_from_another_site(headers: Headers) -> bool:
    """Whether a browser sends this for a page that is not this endpoint's.

    A form needs no leave of the endpoint to be posted, and where no key is asked for it would be
    obeyed. Source: Fetch, "Origin header"; Fetch Metadata Request Headers, `Sec-Fetch-Site`.
    """
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


class _Answer:
    """The way of one answer to the client: adds the request's id, and knows how far it is.

    A stream that has begun fails in its last event, whoever wrote that: it is counted here.
    """

    def __init__(
        self, send: Callable[[Message], Awaitable[None]], request_id: str, gate: Gate
    ) -> None:
        self._send = send
        self._gate = gate
        self.request_id = request_id
        self.is_started = False
        self.is_stream = False
        self.is_over = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.is_started = True
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id
            self.is_stream = headers.get("content-type", "").startswith("text/event-stream")
        elif message["type"] == "http.response.body":
            self.is_over = not message.get("more_body", False)
            body: bytes = message.get("body", b"")
            if self.is_stream and body.startswith(_ERROR_EVENTS):
                error = json.loads(body.partition(b"data: ")[2])["error"]
                self._gate.errors[error["code"]] += 1
        await self._send(message)
