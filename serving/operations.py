"""What the endpoint of every engine has: probes, metrics, adapters, keys, and OpenAI's failures."""

from collections.abc import Callable
from importlib.metadata import version

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from serving.adapter_operations import AdapterOperations
from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore
from serving.edge import SHUTTING_DOWN, EndpointEdge, Gate
from serving.engine_client import OperatedEngine
from serving.errors import (
    MethodError,
    NotFoundError,
    RequestError,
    ServingError,
    UnavailableError,
    error_body,
    error_headers,
)
from serving.keys import KeyRing
from serving.metrics import error_exposition


def build_operations(
    engine: OperatedEngine,
    model_name: str,
    *,
    keys: KeyRing | None = None,
    roots: AdapterRoots | None = None,
    store: AdapterStore | None = None,
    gate: Gate | None = None,
    openapi_url: str | None = None,
    more_metrics: Callable[[], bytes] | None = None,
) -> FastAPI:
    """Return an application that answers for the engine's state; its other paths are to be added.

    Args:
        engine: What requests are answered with.
        model_name: What the base model is served as.
        keys: Who may ask; None everybody.
        roots: Where clients may have adapters loaded from; None everywhere.
        store: Keeps adapters that clients send; None takes none.
        gate: Counts requests and sends new ones away while the endpoint drains.
        openapi_url: Where the OpenAPI document is; None serves none.
        more_metrics: Gives what `/metrics` shows besides, in Prometheus's text format.
    """
    gate = gate or Gate()
    app = FastAPI(title="Motley", openapi_url=openapi_url, docs_url=None, redoc_url=None)
    operations = _Operations(engine, model_name, gate, more_metrics or bytes)
    for method, path, handler in (
        ("GET", "/health", operations.health),
        ("GET", "/metrics", operations.metrics),
        ("GET", "/version", operations.version),
    ):
        app.add_api_route(path, handler, methods=[method], response_model=None)
    adapters = AdapterOperations(
        engine, model_name, roots or AdapterRoots(), store or AdapterStore()
    )
    adapters.add_routes(app)
    _answer_failures(app, gate)
    app.add_middleware(EndpointEdge, gate=gate, keys=keys or KeyRing())
    return app


class _Operations:
    """The handlers, over one engine."""

    def __init__(
        self,
        engine: OperatedEngine,
        model_name: str,
        gate: Gate,
        more_metrics: Callable[[], bytes],
    ) -> None:
        self._engine = engine
        self._model_name = model_name
        self._gate = gate
        self._more_metrics = more_metrics

    async def health(self) -> Response:
        problem = SHUTTING_DOWN if self._gate.is_draining else await self._engine.probe()
        if problem is None:
            return Response(status_code=200)
        # Not raised: a probe that learns the truth is no failed request.
        status, body = error_body(UnavailableError(problem))
        return JSONResponse(body, status, error_headers(UnavailableError(problem)))

    async def metrics(self) -> Response:
        name = self._model_name
        content = await self._engine.metrics(name) + error_exposition(name, self._gate.errors)
        content += self._more_metrics()
        return Response(content, media_type="text/plain; version=0.0.4")

    async def version(self) -> Response:
        return JSONResponse({"version": version("motley"), **await self._engine.described()})


def _answer_failures(app: FastAPI, gate: Gate) -> None:
    """Give every failure OpenAI's body; what is not foreseen here ends at the edge."""

    async def own(request: Request, error: Exception) -> Response:
        assert isinstance(error, ServingError), "registered for this class"
        return gate.refusal(error, request.state.request_id)

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException), "registered for this class"
        response = gate.refusal(_routing_error(error, request), request.state.request_id)
        response.headers.update(error.headers or {})
        return response

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError), "registered for this class"
        # Its own message would quote the value, which may be a text.
        refused = RequestError("the request breaks the endpoint's schema; correct it")
        return gate.refusal(refused, request.state.request_id)

    app.add_exception_handler(ServingError, own)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(RequestValidationError, validation)


def _routing_error(error: HTTPException, request: Request) -> ServingError:
    """Return what the framework refused as one of our failures."""
    path = request.url.path[:200]
    if error.status_code == 404:
        return NotFoundError(f"there is no path {path}; see /v1/models")
    if error.status_code == 405:
        return MethodError(f"{path} does not take {request.method}")
    return RequestError(f"the request is malformed ({error.detail}); correct it"[:200])
