"""What is served: `/v1/models`, and `/health` of the router itself."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.errors import UnknownModelError
from router.fleet import Fleet
from router.governance.governance import Governance
from router.health import HealthMonitor
from router.minions.virtual_model import VirtualModels


class Catalogue:
    """What is served, and whether anything is."""

    def __init__(
        self,
        fleet: Fleet,
        monitor: HealthMonitor,
        virtual: VirtualModels,
        governance: Governance,
    ) -> None:
        self._fleet = fleet
        self._monitor = monitor
        self._governance = governance
        self._virtual = virtual

    async def health(self, request: Request) -> Response:
        """Answer 200, or 503 if no replica is healthy, with healthy replicas per model."""
        counts = {
            model: {
                "healthy": sum(replica.is_healthy for replica in self._fleet.configured(model)),
                "replicas": len(self._fleet.configured(model)),
            }
            for model in self._fleet.base_models
        }
        is_up = any(replica.is_healthy for replica in self._fleet.replicas)
        content = {"status": "ok" if is_up else "unavailable", "models": counts}
        return JSONResponse(content, status_code=200 if is_up else 503)

    async def models(self, request: Request) -> Response:
        """List the configured models and whatever else the replicas list, adapters included.

        Where the router has keys, it lists what the client's may use.
        """
        tenant = self._governance.identify(request.scope["headers"])
        allowed = [entry for name, entry in self._entries().items() if tenant.allows(name)]
        return JSONResponse({"object": "list", "data": allowed})

    async def model(self, request: Request) -> Response:
        """Return one entry of the list; an unknown name is looked for on the replicas once."""
        tenant = self._governance.identify(request.scope["headers"])
        name = str(request.path_params["name"])
        if not self._fleet.knows(name):
            await self._monitor.refresh()
        entries = {each: entry for each, entry in self._entries().items() if tenant.allows(each)}
        if name not in entries:
            raise UnknownModelError(name, entries)
        return JSONResponse(entries[name])

    def _entries(self) -> dict[str, dict[str, object]]:
        return self._virtual.entries() | self._fleet.model_entries()
