"""Kept connections to replicas, without a limit on their number."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from router.upstream_connection import Connection

KEPT_SECONDS = 15.0
"""A connection idle for longer is closed, at the latest after twice that time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a replica's connections go."""

    host: str
    port: int
    is_tls: bool
    host_header: str
    path: str
    """What stands before every path, without a last slash."""

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the origin of a replica's URL, which must be valid."""
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        assert parts.hostname is not None
        return cls(
            host=parts.hostname,
            port=parts.port or (443 if is_tls else 80),
            is_tls=is_tls,
            host_header=parts.netloc,
            path=parts.path.rstrip("/"),
        )


class Pool:
    """Connections by origin; the last one put back is the first one taken."""

    def __init__(
        self, tls: ssl.SSLContext | None = None, *, kept_seconds: float = KEPT_SECONDS
    ) -> None:
        """Verify replicas by `tls`, or by the system's certificates."""
        self._tls = tls
        self._kept_seconds = kept_seconds
        self._idle: dict[Origin, list[Connection]] = {}
        self._origins: dict[Connection, Origin] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def take(self, origin: Origin) -> Connection | None:
        """Return a kept connection, or None."""
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            if not connection.is_lost:
                return connection
        return None

    async def connect(self, origin: Origin) -> Connection:
        """Return a new connection.

        Raises:
            OSError: If there is none to be had.
        """
        loop = asyncio.get_running_loop()
        tls = None
        if origin.is_tls:
            tls = self._tls = self._tls or ssl.create_default_context()
        _, connection = await loop.create_connection(
            lambda: Connection(self._put_back, self._forget), origin.host, origin.port, ssl=tls
        )
        self._origins[connection] = origin
        return connection

    def close(self) -> None:
        """Close every connection, in use or not."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._origins):
            connection.abort()
        self._idle.clear()

    def _put_back(self, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        origin = self._origins[connection]
        idle = self._idle.get(origin)
        if idle is None:
            idle = self._idle[origin] = []
        idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._kept_seconds, self._close_old)

    def _forget(self, connection: Connection) -> None:
        origin = self._origins.pop(connection, None)
        idle = self._idle.get(origin) if origin is not None else None
        if idle is not None and connection in idle:
            idle.remove(connection)

    def _close_old(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        oldest = loop.time() - self._kept_seconds
        for connections in self._idle.values():
            for connection in connections:
                if connection.idle_since < oldest:
                    connection.abort()
        kept = {
            origin: [each for each in connections if not each.is_lost]
            for origin, connections in self._idle.items()
        }
        self._idle = {origin: connections for origin, connections in kept.items() if connections}
        if self._idle:
            self._sweep = loop.call_later(self._kept_seconds, self._close_old)
