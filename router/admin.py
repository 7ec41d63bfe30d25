"""The paths of `/admin` that change the router itself, and who may use them."""

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from router.discovery.commands import ReplicaCommands
from router.errors import AdminRefusedError
from router.reload import Reloader

Handler = Callable[[Request], Awaitable[Response]]

LOOPBACK = ("127.0.0.1", "::1")


class Admin:
    """The commands behind `/admin`."""

    def __init__(self, replicas: ReplicaCommands, reloader: Reloader) -> None:
        self._replicas = replicas
        self._reloader = reloader

    def routes(self) -> list[Route]:
        """Return the paths, each behind the guard."""
        return [
            Route("/admin/replicas", guarded(self._replicas.list_all)),
            Route("/admin/replicas", guarded(self._replicas.add), methods=["POST"]),
            Route("/admin/replicas", guarded(self._replicas.drain), methods=["DELETE"]),
            Route("/admin/reload", guarded(self._reloader.answer), methods=["POST"]),
        ]


def guarded(handler: Handler) -> Handler:
    """Return the handler behind the question who asks."""

    async def answer(request: Request) -> Response:
        require_admin(request)
        return await handler(request)

    return answer


def require_admin(request: Request) -> None:
    """Let in who may change the router: programs of its own machine.

    Raises:
        AdminRefusedError: If the request comes from elsewhere.
    """
    host = request.client.host if request.client is not None else "unknown"
    if host not in LOOPBACK:
        raise AdminRefusedError(host)
