"""A loopback server that answers request by request as a test scripts it, byte for byte."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Peer:
    """One connection of the client under test."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    number: int
    """0 for the first connection."""

    async def read_request(self) -> bytes:
        """Return the body of the next request; nothing is kept of its head."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if b"content-length:" in line]
        return await self.reader.readexactly(int(length[0].split(b":")[1]) if length else 0)

    async def send(self, *pieces: bytes) -> None:
        """Write pieces, each in its own turn of the loop."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(0)


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class ScriptedServer:
    """Runs the script once a connection, then closes it."""

    script: Script
    url: str = ""
    num_connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        peer = Peer(reader, writer, self.num_connections)
        self.num_connections += 1
        try:
            await self.script(peer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def scripted(
    script: Script, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[ScriptedServer]:
    """Yield a running server; every connection ends with it."""
    scripted_server = ScriptedServer(script)
    server = await asyncio.start_server(scripted_server.handle, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scripted_server.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield scripted_server
    finally:
        server.close()
        for task in scripted_server.tasks:
            task.cancel()
        await asyncio.gather(*scripted_server.tasks, return_exceptions=True)
