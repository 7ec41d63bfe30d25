"""The router's paths, and errors as answers."""

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.adapters import Adapters
from router.catalogue import Catalogue
from router.completions import Completions
from router.error_answers import error_body, status_of
from router.errors import RouterError, UnknownPathError, WrongMethodError
from router.exchange import error_headers
from router.workers.metrics_page import MetricsPage


def make_application(
    completions: Completions,
    adapters: Adapters,
    catalogue: Catalogue,
    metrics: MetricsPage,
    admin: Sequence[Route] = (),
) -> Starlette:
    """Return the router's paths; what a handler raises is answered in OpenAI's words."""
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
            *admin,
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
