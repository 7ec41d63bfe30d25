"""A request's body on disk, for bodies that no memory should hold and several replicas get."""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.types import Message, Receive, Scope

from planner.threads import in_thread
from router.errors import BodyTooLargeError, ClientGoneError, SlowBodyError, SpoolError
from router.exchange import header

IDLE_SECONDS = 60.0
"""Longest that a client may send nothing in the middle of a body."""

_PIECE_BYTES = 1 << 18


class Spool:
    """A whole body in a file without a name, gone with the process whatever happens."""

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        """Take the open file; the caller closes it."""
        self._descriptor = descriptor
        self.num_bytes = num_bytes
        """Its length."""

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield it from its beginning; several may read at once."""
        offset = 0
        while piece := await in_thread(os.pread, self._descriptor, _PIECE_BYTES, offset):
            offset += len(piece)
            yield piece


@asynccontextmanager
async def spooled(
    scope: Scope,
    receive: Receive,
    *,
    max_body_bytes: int,
    folder: Path | None,
    idle_seconds: float = IDLE_SECONDS,
) -> AsyncGenerator[Spool]:
    """Yield a request's body once all of it is on disk.

    Args:
        scope: Of the request.
        receive: Gives the body.
        max_body_bytes: Largest body, whatever its length is said to be.
        folder: Where the file lies; None: the system's folder for such files.
        idle_seconds: Longest wait for the next piece.

    Raises:
        BodyTooLargeError: If it is, or says it is, too long.
        ClientGoneError: If the client leaves first.
        SlowBodyError: If nothing comes for too long.
        SpoolError: If the disk does not take it.
    """
    declared = header(scope["headers"], b"content-length")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise BodyTooLargeError(max_body_bytes=max_body_bytes)
    try:
        file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise SpoolError(error) from None
    try:
        num_bytes = 0
        async for piece in _pieces(receive, idle_seconds):
            num_bytes += len(piece)
            if num_bytes > max_body_bytes:
                raise BodyTooLargeError(max_body_bytes=max_body_bytes)
            await in_thread(_write, file.fileno(), piece)
        yield Spool(file.fileno(), num_bytes)
    finally:
        file.close()


async def _pieces(receive: Receive, idle_seconds: float) -> AsyncGenerator[bytes]:
    while True:
        message = await _next(receive, idle_seconds)
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _next(receive: Receive, idle_seconds: float) -> Message:
    try:
        async with asyncio.timeout(idle_seconds):
            return await receive()
    except TimeoutError:
        raise SlowBodyError(idle_seconds) from None


def _write(descriptor: int, piece: bytes) -> None:
    left = memoryview(piece)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except OSError as error:
        raise SpoolError(error) from None
