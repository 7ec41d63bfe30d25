"""Types and settings of the fixtures in `tests/integration/router/conftest.py`."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import httpx

OpenRouter = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
"""Replicas and settings → a client for a router in front of them."""
ReadLines = Callable[[], list[dict[str, object]]]
"""The traffic log's lines so far."""

FAST_HEALTH: dict[str, object] = {"interval_seconds": 0.1, "failures_to_unhealthy": 1}
