"""An HTTP server process as every package runs one: take the address, say where, stop in order."""

import logging
import socket
from types import FrameType

import uvicorn

logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address and accepts nothing yet; port 0 takes a free one.

    It listens at once, since two sockets may be bound to one address as long as neither does:
    whoever comes second fails here, before its work. A client that comes early waits.

    Raises:
        OSError: If the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


def address_of(listener: socket.socket, *, scheme: str = "http") -> str:
    """Return the address of a listening socket as a URL."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}"


class GracefulServer(uvicorn.Server):
    """Names its address once it answers, and returns from `serve` when told to stop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, then log one line with the address."""
        await super().startup(sockets=sockets)
        self.announce(sockets or [])

    def announce(self, listeners: list[socket.socket]) -> None:
        """Log where requests are answered."""
        for listener in listeners:
            logger.info("listening url=%s", self.url(listener))

    def url(self, listener: socket.socket) -> str:
        """Return the address of a socket this server accepts from."""
        return address_of(listener, scheme="https" if self.config.is_ssl else "http")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully at the first signal, at once at the second."""
        # Unlike the base class, signals are not raised again: what surrounds the server ends too.
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
