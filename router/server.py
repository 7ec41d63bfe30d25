"""The listening process: socket, loop, signals."""

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
import uvloop

from router.config import RouterConfig
from router.errors import StartError
from router.gateway import open_gateway
from router.traffic_log import TrafficLog

BACKLOG = 2048
"""Connections the kernel keeps waiting; the system may cap it lower."""

logger = logging.getLogger(__name__)


def serve(config: RouterConfig) -> None:
    """Listen and route until SIGTERM or SIGINT, then let running requests finish.

    Raises:
        StartError: If the address is taken or the traffic log cannot be opened.
    """
    traffic_log = TrafficLog(config.traffic_log)
    try:
        with (
            bind(config.host, config.port) as listener,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_serve(config, traffic_log, listener))
    finally:
        traffic_log.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; port 0 takes a free one.

    Raises:
        StartError: If the address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        message = (
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        )
        raise StartError(message) from None
    return listener


async def _serve(config: RouterConfig, traffic_log: TrafficLog, listener: socket.socket) -> None:
    async with open_gateway(config, traffic_log) as application:
        server = _Server(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=config.timeouts.shutdown_seconds,
            )
        )
        await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Names its address once it listens, and ends with exit code 0 when told to stop."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("listening url=http://%s:%d", shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Unlike the base class, signals are not raised again after the graceful end.
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True
