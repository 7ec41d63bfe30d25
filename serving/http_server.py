"""Taking the address, and serving an application on it until told to stop."""

import socket

import uvicorn
from starlette.types import ASGIApp

from planner import listening
from serving.errors import AddressError

_DRAIN_SECONDS = 10
"""Time running answers have to end after the signal to stop."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the address; port 0 takes a free one.

    Raises:
        AddressError: If the address is taken or not ours.
    """
    try:
        return listening.bind(host, port)
    except OSError as error:
        raise AddressError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another --host or --port"
        ) from None


def make_server(app: ASGIApp) -> listening.GracefulServer:
    """Return a server that lets running answers end when it is told to stop."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=_DRAIN_SECONDS
    )
    return listening.GracefulServer(config)


def run_until_stopped(app: ASGIApp, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM, then let running answers end."""
    make_server(app).run(sockets=[listener])
