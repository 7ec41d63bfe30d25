"""The router put together: services, paths, and errors as answers."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from planner.key_file import read_key
from router.adapters import Adapters
from router.completions import Completions
from router.config import RouterConfig
from router.errors import (
    RouterError,
    UnknownModelError,
    UnknownPathError,
    WrongMethodError,
    error_body,
    status_of,
)
from router.exchange import RequestIds, error_headers
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
            yield RequestIds(_application(completions, adapters, catalogue, metrics))


class Catalogue:
    """What is served, and whether anything is."""

    def __init__(self, fleet: Fleet, monitor: HealthMonitor) -> None:
        self._fleet = fleet
        self._monitor = monitor

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
        """List the configured models and whatever else the replicas list, adapters included."""
        return JSONResponse({"object": "list", "data": list(self._fleet.model_entries().values())})

    async def model(self, request: Request) -> Response:
        """Return one entry of the list; an unknown name is looked for on the replicas once."""
        name = str(request.path_params["name"])
        if not self._fleet.knows(name):
            await self._monitor.refresh()
        entries = self._fleet.model_entries()
        if name not in entries:
            raise UnknownModelError(name, entries)
        return JSONResponse(entries[name])


def _application(
    completions: Completions, adapters: Adapters, catalogue: Catalogue, metrics: RouterMetrics
) -> Starlette:
    application = Starlette(
        routes=[
            Route("/v1/chat/completions", completions, methods=["POST"]),
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/models", catalogue.models),
            Route("/v1/models/{name:path}", catalogue.model),
            Route("/v1/load_lora_adapter", adapters.load, methods=["POST"]),
            Route("/v1/unload_lora_adapter", adapters.unload, methods=["POST"]),
            Route("/admin/adapters", adapters.list_all),
            Route("/admin/adapters/{name:path}", adapters.upload, methods=["POST"]),
            Route("/admin/adapters/{name:path}", adapters.remove, methods=["DELETE"]),
            Route("/health", catalogue.health),
            Route("/metrics", metrics.answer),
        ],
        exception_handlers={
            HTTPException: _answer_http_exception,
            RouterError: _answer_router_error,
            500: _answer_bug,
        },
    )
    application.router.redirect_slashes = False
    return application


async def _answer_router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    response = JSONResponse(error_body(error), status_code=status_of(error))
    response.raw_headers.extend(error_headers(error))
    return response


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer what Starlette's routing refuses: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return await _answer_router_error(request, UnknownPathError(request.url.path))
    allowed = (error.headers or {}).get("Allow", "")
    wrong_method = WrongMethodError(request.method, request.url.path, allowed)
    response = await _answer_router_error(request, wrong_method)
    response.headers["allow"] = allowed
    return response


async def _answer_bug(request: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, so its traceback reaches our log.
    return await _answer_router_error(request, RouterError("internal error; see the router's log"))
