"""What is served: `/v1/models`, and `/health` of the router itself."""

import time
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.errors import UnknownModelError
from router.fleet import Fleet
from router.governance.governance import Governance
from router.governance.tenant import Tenant
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
        *,
        pools: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Tell of the fleet's models, of virtual ones, and of `pools`, name to models."""
        self._fleet = fleet
        self._monitor = monitor
        self._governance = governance
        self._virtual = virtual
        self._pools = pools or {}
        self._created_unix_seconds = int(time.time())

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
        """List the configured models and whatever else the replicas list, and the pools.

        Where the router has keys, it lists what the client's may use.
        """
        tenant = self._governance.identify(request.scope["headers"])
        return JSONResponse({"object": "list", "data": [*self._entries(tenant).values()]})

    async def model(self, request: Request) -> Response:
        """Return one entry of the list; an unknown name is looked for on the replicas once."""
        tenant = self._governance.identify(request.scope["headers"])
        name = str(request.path_params["name"])
        if name not in self._pools and not self._fleet.knows(name):
            await self._monitor.refresh()
        entries = self._entries(tenant)
        if name not in entries:
            raise UnknownModelError(name, entries)
        return JSONResponse(entries[name])

    def _entries(self, tenant: Tenant) -> dict[str, dict[str, object]]:
        pools: dict[str, dict[str, object]] = {
            name: {
                "id": name,
                "object": "model",
                "created": self._created_unix_seconds,
                "owned_by": "motley",
            }
            for name, models in self._pools.items()
            if any(map(tenant.allows, models))
        }
        models = self._virtual.entries() | self._fleet.model_entries()
        return {name: entry for name, entry in models.items() if tenant.allows(name)} | pools
