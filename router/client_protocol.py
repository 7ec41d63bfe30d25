"""The server's side of a client's connection: uvicorn's, with joined writes and told departures."""

import asyncio
from typing import cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from router.client_watch import Departure
from router.joined_writes import JoinedWrites


class ClientProtocol(HttpToolsProtocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._departure = Departure()
        self._writes = JoinedWrites(cast("asyncio.Transport", transport))
        super().connection_made(self._writes)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let the running request know that its client has left."""
        super().connection_lost(exc)
        self._departure.leave()

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._departure.put_into(cast("Scope", self.scope))

    def on_response_complete(self) -> None:
        """An answer is whole: its client need not wait for what the request still has to note."""
        self._writes.flush()
        super().on_response_complete()
