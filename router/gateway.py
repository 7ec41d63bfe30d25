"""The router put together."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp

from planner.key_file import read_key
from router.adapters import Adapters
from router.application import make_application
from router.catalogue import Catalogue
from router.completions import Completions
from router.config import RouterConfig
from router.exchange import RequestIds
from router.fleet import Fleet
from router.health import HealthMonitor
from router.input_size import InputSizes
from router.metrics import RouterMetrics
from router.policies.least_outstanding import LeastOutstanding
from router.policies.planned_weights import PlannedWeights
from router.router import Router
from router.traffic_log import TrafficLog
from router.upstream import open_upstream


@asynccontextmanager
async def open_gateway(config: RouterConfig, traffic_log: TrafficLog) -> AsyncGenerator[ASGIApp]:
    """Yield the router as an ASGI application, its health checks running until the end.

    Every replica has been checked once before this yields.

    Raises:
        DocumentError: If the file of the key for checks holds none.
    """
    fleet = Fleet(config.models)
    sizes = InputSizes(model.name for model in config.models if model.weights)
    policy = PlannedWeights(config.models, sizes, LeastOutstanding())
    metrics = RouterMetrics(fleet, sizes)
    key_file = config.health.api_key_file
    key = None if key_file is None else read_key(key_file)
    async with open_upstream(config.timeouts, control_key=key) as upstream:
        monitor = HealthMonitor(fleet, upstream, config.health)
        attempts = config.retry.max_attempts
        router = Router(fleet, monitor, policy, upstream, metrics, max_attempts=attempts)
        limit = int(config.max_body_bytes)
        completions = Completions(router, traffic_log, metrics, sizes, max_body_bytes=limit)
        adapters = Adapters(
            fleet,
            monitor,
            upstream,
            max_body_bytes=limit,
            max_upload_bytes=int(config.max_upload_bytes),
            list_seconds=config.health.timeout_seconds,
            spool_folder=config.spool_folder,
        )
        async with monitor.running():
            catalogue = Catalogue(fleet, monitor)
            yield RequestIds(make_application(completions, adapters, catalogue, metrics))
