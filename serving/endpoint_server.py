"""The endpoint's HTTP server: answers while the engine loads, drains before it ends."""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from planner import listening
from serving.edge import Gate
from serving.endpoint_config import EndpointConfig
from serving.errors import KeyFileError

logger = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 5
"""Time answers have to say that they were cut short."""


class EndpointServer(listening.GracefulServer):
    """Says `loading` when it answers, `listening` when told that the model is there.

    At the first signal it drains: running requests go on, new ones are answered 503, until none is
    left or their time is over. A second signal ends it at once.
    """

    def __init__(
        self,
        app: ASGIApp,
        gate: Gate,
        config: EndpointConfig,
        *,
        end_requests: Callable[[], Awaitable[None]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Serve `app`.

        Args:
            app: The application behind the gate.
            gate: Told when to send requests away; says how many are left.
            config: Time for draining, TLS.
            end_requests: Ends what still runs when the time for draining is over.
            monotonic: Clock of the drain, in seconds.

        Raises:
            KeyFileError: If certificate or key cannot be used.
        """
        super().__init__(_uvicorn_config(app, config))
        self._gate = gate
        self._drain_seconds = config.drain_seconds
        self._end_requests = end_requests
        self._monotonic = monotonic
        self._drain_until: float | None = None
        self._listeners: list[socket.socket] = []

    def announce(self, listeners: list[socket.socket]) -> None:
        """Say where the endpoint can be asked for its health."""
        self._listeners = listeners
        for listener in listeners:
            logger.info("loading url=%s", self.url(listener))

    def announce_loaded(self) -> None:
        """Say where requests are answered from now on."""
        super().announce(self._listeners)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, end at once at the second."""
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._gate.is_draining = True
        self._drain_until = self._monotonic() + self._drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Tick as uvicorn does; whether it is time to end."""
        if self._drain_until is not None and not self.should_exit:
            is_late = self._monotonic() >= self._drain_until
            if is_late and self._gate.num_running:
                logger.warning("requests cut short by shutdown num=%d", self._gate.num_running)
                await self._end_requests()
            self.should_exit = is_late or not self._gate.num_running
        return await super().on_tick(counter)


async def serve_until_told(
    server: EndpointServer, listener: socket.socket, *, loading: Coroutine[Any, Any, None]
) -> None:
    """Answer on `listener` until the server is told to end, or the engine cannot be loaded.

    Args:
        server: Has not been started.
        listener: Where clients come.
        loading: Ends once the engine can be asked.

    Raises:
        ServingError: What `loading` raises.
    """
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loaded = asyncio.create_task(loading)
    await asyncio.wait({serving, loaded}, return_when=asyncio.FIRST_COMPLETED)
    if loaded.done() and loaded.exception() is None:
        server.announce_loaded()
    elif loaded.done():
        server.should_exit = True
    await serving
    loaded.cancel()
    await asyncio.wait({loaded})
    if not loaded.cancelled():
        await loaded


def _uvicorn_config(app: ASGIApp, config: EndpointConfig) -> uvicorn.Config:
    found = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        ssl_certfile=config.tls_cert,
        ssl_keyfile=None if config.tls_key is None else str(config.tls_key),
        timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
    )
    try:
        found.load()
    except (OSError, ssl.SSLError) as error:
        raise KeyFileError(
            f"TLS with {config.tls_cert} and {config.tls_key} does not work ({error}); give a "
            "certificate and its key in PEM"
        ) from None
    return found
