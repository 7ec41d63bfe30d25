"""Taking the address a server will answer on."""

import errno
import socket

import pytest

from planner.listening import bind


def test_an_address_is_taken_from_bind_on():
    """A second server fails before its work starts, though the first accepts nothing yet."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match="in use") as caught:
            bind("127.0.0.1", port)
        assert caught.value.errno == errno.EADDRINUSE


def test_an_address_is_free_again_at_once():
    """A connection that was closed a moment ago does not keep the address."""
    with bind("127.0.0.1", 0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            listener.accept()[0].close()
    bind(*address).close()


def test_an_early_client_waits():
    """Who connects while the model loads is served afterwards."""
    with (
        bind("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.sendall(b"early")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(5) == b"early"
