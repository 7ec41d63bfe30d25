"""The HTTP application in front of vLLM's server: passes bytes on, and speaks for it while it is away."""

import asyncio
import json
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.errors import (
    EngineError,
    NotFoundError,
    RequestError,
    ServingError,
    TooLargeError,
    UnavailableError,
    error_body,
)
from serving.vllm_engine.adapters import LOAD, UNLOAD, VllmAdapters
from serving.vllm_engine.supervisor import VllmSupervisor
from serving.vllm_engine.upstream import VllmUpstream

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 << 20
"""Largest request body taken."""

CLIENT_LEFT = 499
"""Status, for the log only, of an answer nobody waits for any more."""

_PASSED = re.compile(r"/(v1/.*|tokenize|detokenize)")
"""Paths that are vLLM's to answer; its others are for its own operators."""
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")
_ADAPTER_NAME = re.compile(r"[!-~]{1,256}")
_FROM_CLIENT = ("accept", "content-type", "authorization")
_TO_CLIENT = ("content-type", "retry-after", "x-data-parallel-rank")

Result = TypeVar("Result")


class VllmProxy:
    """The handlers, over one supervised server."""

    def __init__(
        self,
        supervisor: VllmSupervisor,
        upstream: VllmUpstream,
        adapters: VllmAdapters,
        *,
        model_name: str,
    ) -> None:
        """Speak for a server that answers for `model_name`."""
        self._supervisor = supervisor
        self._upstream = upstream
        self._adapters = adapters
        self._model_name = model_name
        self.num_broken = 0
        """Answers that broke off after their first byte."""

    def app(self) -> Starlette:
        """Return the application."""
        routes = (
            ("GET", "/health", self._health),
            ("GET", "/version", self._version),
            ("GET", "/metrics", self._metrics),
            ("POST", LOAD, self._load_adapter),
            ("POST", UNLOAD, self._unload_adapter),
        )
        own = [Route(path, _answered(do), methods=[method]) for method, path, do in routes]
        every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
        return Starlette(
            routes=[*own, Route("/{path:path}", _answered(self._pass_on), methods=every)]
        )

    async def _health(self, request: Request) -> Response:
        self._check_ready()
        if not await self._upstream.is_healthy():
            raise UnavailableError("vllm does not answer its health check; see the server's log")
        return Response(status_code=200)

    async def _version(self, request: Request) -> Response:
        engine_version = await self._upstream.version()
        return JSONResponse(
            {"version": version("motley"), "engine": "vllm", "engine_version": engine_version}
        )

    async def _metrics(self, request: Request) -> Response:
        registry = CollectorRegistry()
        for name, text, value in (
            ("engine_crashes", "Times vLLM's process ended unasked", self._supervisor.num_crashes),
            ("adapters_lost", "Adapters not loaded again after one", self._adapters.num_lost),
            ("broken_answers", "Answers that broke off after their first byte", self.num_broken),
        ):
            counter = Counter(f"motley:{name}", text, ["model_name"], registry=registry)
            counter.labels(self._model_name).inc(value)
        content = await self._upstream.metrics() + generate_latest(registry)
        return Response(content, media_type="text/plain; version=0.0.4")

    async def _load_adapter(self, request: Request) -> Response:
        body = await _fields(request, "lora_name", "lora_path")
        name = body["lora_name"]
        if not _ADAPTER_NAME.fullmatch(name) or name == self._model_name:
            raise RequestError(
                f"lora_name {name[:80]!r} is the base model's, or no name; choose another",
                param="lora_name",
            )
        self._check_ready()
        if name in self._adapters.names:
            raise RequestError(
                f"adapter {name!r} is already loaded; unload it first or choose another name",
                param="lora_name",
            )
        await self._adapters.load(name, Path(body["lora_path"]))
        return Response(f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload_adapter(self, request: Request) -> Response:
        name = (await _fields(request, "lora_name"))["lora_name"]
        self._check_ready()
        await self._adapters.unload(name)
        return Response(f"Success: LoRA adapter '{name}' removed successfully.")

    async def _pass_on(self, request: Request) -> Response:
        path = request.url.path
        if not _PASSED.fullmatch(path):
            raise NotFoundError(f"there is no path {path}; see /v1/models")
        self._check_ready()
        body = await _read(request)
        headers = {name: request.headers[name] for name in _FROM_CLIENT if name in request.headers}
        headers["x-request-id"] = request.state.request_id
        target = path + (f"?{request.url.query}" if request.url.query else "")
        sending = self._upstream.send(request.method, target, headers=headers, body=body)
        answer = await _while_wanted(request, sending)
        if answer is None:
            return Response(status_code=CLIENT_LEFT)
        kept = {name: answer.headers[name] for name in _TO_CLIENT if name in answer.headers}
        return StreamingResponse(
            self._pieces(request, answer), status_code=answer.status, headers=kept
        )

    async def _pieces(
        self, request: Request, answer: aiohttp.ClientResponse
    ) -> AsyncGenerator[bytes]:
        """Yield an answer's bytes as they come; leaving early closes it, which aborts it there."""
        try:
            while piece := await answer.content.readany():
                yield piece
        except (aiohttp.ClientError, OSError) as error:
            self.num_broken += 1
            logger.warning(
                "answer broke off request_id=%s error=%s",
                request.state.request_id,
                type(error).__name__,
            )
            if answer.content_type != "text/event-stream":
                raise  # a length was promised: the connection ends short of it
            failure = UnavailableError("vllm broke off in the middle of this answer; retry")
            yield f"data: {json.dumps(error_body(failure)[1])}\n\n".encode()
        finally:
            answer.close()

    def _check_ready(self) -> None:
        if (problem := self._supervisor.problem) is not None:
            raise UnavailableError(problem)


def _answered(
    do: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Return a handler that carries the request's id and answers failures in OpenAI's form."""

    async def handle(request: Request) -> Response:
        given = request.headers.get("x-request-id", "")
        request.state.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
        try:
            response = await do(request)
        except ServingError as error:
            response = _refusal(request, error)
        except Exception:
            # The process edge: the traceback is logged, the client gets OpenAI's body.
            logger.exception("request failed request_id=%s", request.state.request_id)
            response = _refusal(request, EngineError("the server failed; see its log"))
        response.headers["x-request-id"] = request.state.request_id
        return response

    return handle


def _refusal(request: Request, error: ServingError) -> Response:
    status, body = error_body(error)
    if status >= 500 and request.url.path != "/health":  # asked every second while loading
        logger.warning("request failed request_id=%s error=%s", request.state.request_id, error)
    return JSONResponse(body, status, {"Retry-After": "1"} if status in (429, 503) else None)


async def _while_wanted(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result of `work`, or abort it and return None when the client goes away first."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working, leaving})


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request) -> bytes:
    """Return the body.

    Raises:
        TooLargeError: Above the size limit.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the body is above {MAX_BODY_BYTES} bytes; send a smaller one")
        chunks.append(chunk)
    return b"".join(chunks)


async def _fields(request: Request, *names: str) -> dict[str, str]:
    """Return text fields of a JSON body.

    Raises:
        RequestError: If it is no JSON object, or lacks one.
    """
    try:
        content = json.loads(await _read(request))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise RequestError("the body is no JSON object; send one")
    for name in names:
        if not (isinstance(content.get(name), str) and content[name]):
            raise RequestError(f"{name} is missing or no text; give it", param=name)
    return {name: content[name] for name in names}
