"""A router in front of fake replicas whose settings a test can change while it runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from fakes import FakeReplica, served
from router_under_test import FAST_HEALTH

from router.config_file import ConfigFile
from router.discovery.dns import Resolver
from router.gateway import open_gateway
from router.traffic_log import TrafficLog

ADMIN_KEY = "the-administrators-key"
"""Every request of the client carries it; the data path of a router without keys does not mind."""


@dataclass
class ReloadableRouter:
    """The file of a running router, and a client for it."""

    path: Path
    settings: dict[str, object]
    client: httpx.AsyncClient = field(init=False)

    def write(self, *replicas: FakeReplica, **settings: object) -> None:
        """Write a file with these replicas, each under its own model."""
        names = dict.fromkeys(replica.model for replica in replicas)
        models = [
            {"name": name, "replicas": [{"url": r.url} for r in replicas if r.model == name]}
            for name in names
        ]
        key_path = self.path.with_name("admin.key")
        key_path.write_text(ADMIN_KEY)
        governance = {"admin_key_file": str(key_path)}
        content = {"health": FAST_HEALTH, "models": models, "governance": governance}
        content |= {**self.settings, **settings}
        self.path.write_text(json.dumps(content))

    async def reload(self) -> httpx.Response:
        """Ask for a reload."""
        return await self.client.post("/admin/reload")

    async def urls(self) -> list[str]:
        """Return the addresses of the fleet, as `/admin/replicas` lists them."""
        return [card["url"] for card in await self.cards()]

    async def cards(self) -> list[dict[str, object]]:
        """Return what `/admin/replicas` lists."""
        return (await self.client.get("/admin/replicas")).json()["data"]

    async def sample(self, name: str) -> str | None:
        """Return the value of a series of `/metrics`."""
        lines = (await self.client.get("/metrics")).text.splitlines()
        return next((line.split()[-1] for line in lines if line.startswith(name)), None)

    async def until_urls(self, *urls: str) -> None:
        """Wait until the fleet is just these."""
        async with asyncio.timeout(30):
            while sorted(await self.urls()) != sorted(urls):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def reloadable_router(
    folder: Path,
    *replicas: FakeReplica,
    resolver: Resolver | None = None,
    content: dict[str, object] | None = None,
    **settings: object,
) -> AsyncIterator[ReloadableRouter]:
    """Yield a router that reads its file again on command.

    Its models are those of the replicas, or what `content` says.
    """
    router = ReloadableRouter(folder / "router.json", settings)
    router.write(*replicas, **(content or {}))
    file = ConfigFile(router.path)
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    async with (
        open_gateway(
            file.read(), TrafficLog(None), config_file=file, resolver=resolver
        ) as application,
        served(application) as url,
        httpx.AsyncClient(base_url=url, timeout=30, headers=headers) as client,
    ):
        router.client = client
        yield router
