"""A router on a loopback socket in front of fake replicas."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fakes import FakeReplica, served
from router_under_test import OpenRouter, ReadLines

from router.config import RouterConfig
from router.gateway import open_gateway
from router.traffic_log import TrafficLog


@pytest.fixture
def traffic_path(tmp_path: Path) -> Path:
    """Return where the router under test writes its traffic log."""
    return tmp_path / "traffic.jsonl"


@pytest.fixture
def read_lines(traffic_path: Path) -> ReadLines:
    """Return a function that gives the traffic log's lines so far."""
    return lambda: [json.loads(line) for line in traffic_path.read_text().splitlines()]


@pytest.fixture
def open_router(traffic_path: Path) -> OpenRouter:
    """Return a function that runs a router over replicas and yields a client for it."""

    @asynccontextmanager
    async def opened(
        *replicas: FakeReplica,
        fallbacks: Mapping[str, Sequence[str]] | None = None,
        **settings: object,
    ) -> AsyncIterator[httpx.AsyncClient]:
        names = dict.fromkeys(replica.model for replica in replicas)
        models: list[dict[str, object]] = [
            {"name": name, "replicas": [{"url": r.url} for r in replicas if r.model == name]}
            for name in names
        ]
        for model in models:
            model["fallbacks"] = (fallbacks or {}).get(str(model["name"]), ())
        config = RouterConfig.model_validate({"models": models, **settings})
        log = TrafficLog(traffic_path)
        try:
            async with (
                open_gateway(config, log) as application,
                served(application) as url,
                httpx.AsyncClient(base_url=url, timeout=30) as client,
            ):
                yield client
        finally:
            log.close()

    return opened
