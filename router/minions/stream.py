"""The client's stream of a virtual model: progress as comments, then the answer as chunks.

OpenAI's clients pass comments over; they also keep idle connections open meanwhile.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

from starlette.types import Send

from router.error_answers import error_body
from router.errors import RouterError
from router.sse import data_event

HEARTBEAT_SECONDS = 15.0
"""Longest silence before a comment says that work goes on."""

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class ProgressStream:
    """One stream of server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[Callable[[str], None]]:
        """Begin the stream; yield what takes lines to tell. They have been told when this ends."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        telling = asyncio.create_task(self._tell_all())
        try:
            yield self._lines.put_nowait
            self._lines.put_nowait(None)
            await telling
        finally:
            telling.cancel()

    async def finish(self, events: Iterable[bytes]) -> None:
        """Send the answer, and end the stream."""
        for event in events:
            await self._send({"type": "http.response.body", "body": event, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: RouterError) -> None:
        """End the stream with an error event."""
        await self._send({"type": "http.response.body", "body": data_event(error_body(error))})

    async def _tell_all(self) -> None:
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    line = await self._lines.get()
            except TimeoutError:
                line = "working"
            if line is None:
                return
            comment = f": minions {line}\n\n".encode()
            await self._send({"type": "http.response.body", "body": comment, "more_body": True})
