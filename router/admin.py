"""The paths of `/admin` besides those of adapters; `governance/admin_guard.py` says who may use them."""

from starlette.routing import Route

from router.discovery.commands import ReplicaCommands
from router.governance.usage_api import UsageApi
from router.reload import Reloader


class Admin:
    """The commands behind `/admin`."""

    def __init__(self, replicas: ReplicaCommands, reloader: Reloader, usage: UsageApi) -> None:
        self._replicas = replicas
        self._reloader = reloader
        self._usage = usage

    def routes(self) -> list[Route]:
        """Return the paths; who asks has been judged before."""
        return [
            Route("/admin/replicas", self._replicas.list_all),
            Route("/admin/replicas", self._replicas.add, methods=["POST"]),
            Route("/admin/replicas", self._replicas.drain, methods=["DELETE"]),
            Route("/admin/reload", self._reloader.answer, methods=["POST"]),
            Route("/admin/usage", self._usage.usage),
        ]
