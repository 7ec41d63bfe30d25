"""Requests end when their client leaves: told by the server's connection, not by a task a request.

ASGI's own way is to await `receive`, which takes a second task for each request. Ending that task
leaves a cycle of some thirty objects behind, and collecting those held the router up for tens of
milliseconds at a time, a sixth of its processor time in all (`make bench NAME=router`).
"""

import asyncio
from collections.abc import Callable

from starlette.types import Scope

from router.errors import ClientGoneError, StoppingError

_KEY = "router.departure"


class Departure:
    """Whether the client at the other end of a connection has left; one connection's."""

    __slots__ = ("_on_leaving", "has_left")

    def __init__(self) -> None:
        self.has_left = False
        self._on_leaving: Callable[[], None] | None = None

    def put_into(self, scope: Scope) -> None:
        """Let the request of that scope watch."""
        scope[_KEY] = self

    def watch(self, on_leaving: Callable[[], None] | None) -> None:
        """Call `on_leaving` when the client leaves, at once if it has; None ends the watch.

        A connection answers one request at a time, so one watches at a time.
        """
        self._on_leaving = on_leaving
        if self.has_left and on_leaving is not None:
            on_leaving()

    def leave(self) -> None:
        """The connection is lost."""
        self.has_left = True
        if self._on_leaving is not None:
            self._on_leaving()


class ClientWatch:
    """What `cancelled_when_client_leaves` returns; entered once."""

    __slots__ = ("_departure", "_is_gone", "_task")

    def __init__(self, departure: Departure | None) -> None:
        self._departure = departure
        self._is_gone = False

    async def __aenter__(self) -> None:
        """Begin to watch."""
        self._task = asyncio.current_task()
        if self._departure is not None:
            self._departure.watch(self._leave)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Stop watching, and tell why the block was cancelled."""
        if self._departure is not None:
            self._departure.watch(None)
        if kind is asyncio.CancelledError:
            assert self._task is not None
            self._task.uncancel()
            raise (ClientGoneError if self._is_gone else StoppingError) from None

    def _leave(self) -> None:
        assert self._task is not None
        self._is_gone = True
        self._task.cancel()


def cancelled_when_client_leaves(scope: Scope) -> ClientWatch:
    """Return a block that is cancelled when the client disconnects.

    A server that tells no departures runs the block to its end. The block raises:

        ClientGoneError: If the client has left.
        StoppingError: If the server cancelled the request, which it does when it stops.
    """
    return ClientWatch(scope.get(_KEY))
