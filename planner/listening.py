"""An HTTP server process as every package runs one: bind, say where, stop in order."""

import logging
import socket
from types import FrameType

import uvicorn

logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address, not yet listening; port 0 takes a free one.

    Raises:
        OSError: If the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


class GracefulServer(uvicorn.Server):
    """Names its address once it listens, and returns from `serve` when told to stop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then log one line with the address."""
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("listening url=http://%s:%d", shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End gracefully at the first signal, at once at the second."""
        # Unlike the base class, signals are not raised again: what surrounds the server ends too.
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
