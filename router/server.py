"""The listening process: socket, loop, signals."""

import asyncio
import signal
import socket

import uvicorn
import uvloop

from planner import listening
from router.config import RouterConfig
from router.errors import StartError
from router.gateway import open_gateway
from router.reload import ConfigSource
from router.traffic_log import TrafficLog

BACKLOG = 2048
"""Connections the kernel keeps waiting; the system may cap it lower."""


def serve(config: RouterConfig, config_file: ConfigSource | None = None) -> None:
    """Listen and route until SIGTERM or SIGINT, then let running requests finish.

    SIGHUP has the settings read again, from `config_file`.

    Raises:
        StartError: If the address is taken or the traffic log cannot be opened.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    traffic_log = TrafficLog(config.traffic_log)
    try:
        with (
            bind(config.host, config.port) as listener,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(_serve(config, traffic_log, listener, config_file))
    finally:
        traffic_log.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; port 0 takes a free one.

    Raises:
        StartError: If the address is taken or not ours.
    """
    try:
        return listening.bind(host, port)
    except OSError as error:
        message = (
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        )
        raise StartError(message) from None


async def _serve(
    config: RouterConfig,
    traffic_log: TrafficLog,
    listener: socket.socket,
    config_file: ConfigSource | None,
) -> None:
    async with open_gateway(config, traffic_log, config_file=config_file) as application:
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGHUP, application.reloader.reload_soon, "SIGHUP"
        )
        server = listening.GracefulServer(
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
