"""The paths of `/admin` besides those of adapters; `governance/admin_guard.py` says who may use them."""

from starlette.routing import Route

from router.discovery.commands import ReplicaCommands
from router.governance.usage_api import UsageApi
from router.grades import Grades
from router.reload import Reloader


class Admin:
    """The commands behind `/admin`."""

    def __init__(
        self,
        replicas: ReplicaCommands,
        reloader: Reloader,
        usage: UsageApi,
        grades: Grades | None = None,
    ) -> None:
        """Without `grades` there is no path for them."""
        self._replicas = replicas
        self._reloader = reloader
        self._usage = usage
        self._grades = grades

    def routes(self) -> list[Route]:
        """Return the paths; who asks has been judged before."""
        grades = self._grades
        graded = [] if grades is None else [Route("/admin/grades", grades.accept, methods=["POST"])]
        return [
            *graded,
            Route("/admin/replicas", self._replicas.list_all),
            Route("/admin/replicas", self._replicas.add, methods=["POST"]),
            Route("/admin/replicas", self._replicas.drain, methods=["DELETE"]),
            Route("/admin/reload", self._reloader.answer, methods=["POST"]),
            Route("/admin/usage", self._usage.usage),
        ]
