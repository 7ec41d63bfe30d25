"""Files of a multipart body, written to disk as they come in.

Source: RFC 7578, multipart/form-data; the parser is Werkzeug's, which does no I/O of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import Path
from typing import BinaryIO

from starlette.requests import Request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from planner.threads import in_thread
from serving.errors import RequestError, SlowRequestError, TooLargeError

IDLE_SECONDS = 60.0
"""Longest that a client may send nothing in the middle of a body."""

_PIECE_BYTES = 1 << 18
_BUFFER_BYTES = 1 << 20
"""Room for the headers of a part, and for what may be a boundary."""
_MOST_BOUNDARY = 200
_AFTER_BOUNDARY = b"- \t\v\f"
"""What a boundary may still go on with: the closing dashes, and padding."""
_MOST_HELD_BYTES = _MOST_BOUNDARY + 8


async def receive_files(
    request: Request,
    folder: Path,
    *,
    most_bytes: int,
    most_file_bytes: Mapping[str, int],
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Write the files of a body into a folder; memory stays at a few pieces, whatever the size.

    A part's file name, or its field's name where it has none, must be one of those expected; no
    other name ever becomes a path.

    Args:
        request: Its body has not been read.
        folder: Exists, and holds none of the files.
        most_bytes: Largest body, whatever its Content-Length says.
        most_file_bytes: The files that are expected, each once, and the largest size of each.
        idle_seconds: Longest wait for the next piece.

    Raises:
        ClientDisconnect: If the client leaves.
        OSError: If the disk does not take it.
        RequestError: If the body is no such form, or its files are others than expected.
        SlowRequestError: If nothing comes for too long.
        TooLargeError: If the body or a file is above its limit.
    """
    parser = MultipartDecoder(_boundary(request), _BUFFER_BYTES)
    form = _Form(folder, most_file_bytes)
    pieces = _pieces(request, most_bytes, idle_seconds)
    try:
        held = b""
        async for piece in pieces:
            whole, held = _split_whole(held + piece)
            parser.receive_data(whole)
            await form.take(parser)
        parser.receive_data(held)
        parser.receive_data(None)
        await form.take(parser)
    except RequestEntityTooLarge:
        expected = ", ".join(most_file_bytes)
        raise RequestError(f"the form holds more than the files; send {expected} alone") from None
    except ValueError as error:
        reason = " ".join(str(error).split())[:120]
        raise RequestError(f"the body is no whole form ({reason}); send the files anew") from None
    finally:
        await pieces.aclose()
        form.close()
    missing = sorted(set(most_file_bytes) - form.done)
    if missing:
        raise RequestError(f"the upload lacks {', '.join(missing)}; send all files of the folder")


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary or len(boundary) > _MOST_BOUNDARY:
        raise RequestError(
            "the body is no multipart/form-data with a boundary; send the files as `curl -F` does"
        )
    return boundary.encode()


async def _pieces(request: Request, most_bytes: int, idle_seconds: float) -> AsyncGenerator[bytes]:
    """Yield the body in small pieces, up to the limit."""
    too_large = TooLargeError(f"the upload is above {most_bytes} bytes; send a smaller adapter")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise too_large
    size = 0
    chunks = request.stream()
    while (chunk := await _next(chunks, idle_seconds)) is not None:
        size += len(chunk)
        if size > most_bytes:
            raise too_large
        for start in range(0, len(chunk), _PIECE_BYTES):
            yield chunk[start : start + _PIECE_BYTES]


def _split_whole(data: bytes) -> tuple[bytes, bytes]:
    """Split off the end that may lie between a boundary and its closing dashes.

    A piece that ends there has Werkzeug 3.1 take the line break before the boundary for a byte of
    the file. A boundary may itself end in dashes: all of them wait for what follows.
    """
    end = max(len(data.rstrip(_AFTER_BOUNDARY)), len(data) - _MOST_HELD_BYTES)
    return data[:end], data[end:]


async def _next(chunks: AsyncIterator[bytes], idle_seconds: float) -> bytes | None:
    try:
        async with asyncio.timeout(idle_seconds):
            return await anext(chunks, None)
    except TimeoutError:
        raise SlowRequestError(
            f"nothing of the upload came for {idle_seconds:g} seconds; send it again"
        ) from None


class _Form:
    """The files so far, and the one that is being written."""

    def __init__(self, folder: Path, most_file_bytes: Mapping[str, int]) -> None:
        self._folder = folder
        self._most_file_bytes = most_file_bytes
        self._name = ""
        self._file: BinaryIO | None = None
        self._size = 0
        self.done: set[str] = set()

    async def take(self, parser: MultipartDecoder) -> None:
        """Write what the parser has; disks may stall, so that happens in a thread."""
        while not isinstance(event := parser.next_event(), NeedData | Epilogue):
            if isinstance(event, File):
                await in_thread(self._begin, event.filename)
            elif isinstance(event, Field):
                await in_thread(self._begin, event.name)
            elif isinstance(event, Data):
                await in_thread(self._write, event)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self, name: str | None) -> None:
        if name is None or name not in self._most_file_bytes:
            raise RequestError(
                f"file name {str(name)[:80]!r} is not expected; send "
                f"{', '.join(self._most_file_bytes)}"
            )
        if name in self.done:
            raise RequestError(f"{name} is sent twice; send it once")
        self._name, self._size = name, 0
        self._file = (self._folder / name).open("xb")

    def _write(self, event: Data) -> None:
        assert self._file is not None, "data follows a part's header"
        self._size += len(event.data)
        most_bytes = self._most_file_bytes[self._name]
        if self._size > most_bytes:
            raise TooLargeError(f"{self._name} is above {most_bytes} bytes; send a smaller one")
        self._file.write(event.data)
        if not event.more_data:
            self.close()
            self.done.add(self._name)
