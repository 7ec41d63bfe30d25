"""Types and settings of the fixtures in `tests/integration/router/conftest.py`."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx

OpenRouter = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
"""Replicas and settings → a client for a router in front of them."""
ReadLines = Callable[[], list[dict[str, object]]]
"""The traffic log's lines so far."""

FAST_HEALTH: dict[str, object] = {"interval_seconds": 0.1, "failures_to_unhealthy": 1}


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """Return one sample of `/metrics`, 0 where it does not stand."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    for line in (await client.get("/metrics")).text.splitlines():
        head, _, value = line.rpartition(" ")
        found, _, rest = head.partition("{")
        if found == f"motley_router_{name}" and wanted <= set(rest.rstrip("}").split(",")):
            return float(value)
    return 0.0
