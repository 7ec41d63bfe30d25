"""The HTTP application: OpenAI's paths over an answer service."""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from planner.documents import describe
from serving.answers import AnswerService
from serving.api_document import api_document
from serving.embeddings_api import EmbeddingsBody
from serving.errors import (
    EngineError,
    MethodError,
    NotFoundError,
    RequestError,
    ServingError,
    TooLargeError,
    UnavailableError,
    error_body,
)
from serving.metrics import exposition
from serving.openai_api import (
    AdapterBody,
    AdapterNameBody,
    ChatBody,
    CompletionBody,
    GenerateBody,
)
from serving.responses_api import ResponsesBody
from serving.runner import EngineRunner
from serving.tokenize_api import DetokenizeBody, TokenizeBody

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 << 20
"""Largest request body taken."""

CLIENT_LEFT = 499
"""Status, for the log only, of an answer nobody waits for any more."""

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]


def build_app(service: AnswerService, runner: EngineRunner) -> FastAPI:
    """Return the application; the runner must have been started."""
    app = FastAPI(title="Motley", docs_url=None, redoc_url=None)
    endpoint = _Endpoint(service, runner)
    for method, path, handler in (
        ("POST", "/v1/completions", endpoint.completions),
        ("POST", "/v1/chat/completions", endpoint.chat_completions),
        ("POST", "/v1/responses", endpoint.responses),
        ("POST", "/v1/embeddings", endpoint.embeddings),
        ("POST", "/tokenize", endpoint.tokenize),
        ("POST", "/detokenize", endpoint.detokenize),
        ("GET", "/v1/models", endpoint.models),
        ("GET", "/v1/models/{name:path}", endpoint.model),
        ("POST", "/v1/load_lora_adapter", endpoint.load_adapter),
        ("POST", "/v1/unload_lora_adapter", endpoint.unload_adapter),
        ("GET", "/health", endpoint.health),
        ("GET", "/metrics", endpoint.metrics),
        ("GET", "/version", endpoint.version),
    ):
        app.add_api_route(path, handler, methods=[method], response_model=None)
    app.openapi = lambda: api_document(service.model_name)  # type: ignore[method-assign]
    app.add_exception_handler(ServingError, _serving_error)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(Exception, _unforeseen_error)
    app.middleware("http")(_carry_request_id)
    return app


class _Endpoint:
    """The handlers, over one service."""

    def __init__(self, service: AnswerService, runner: EngineRunner) -> None:
        self._service = service
        self._runner = runner
        self._start_time = int(time.time())

    async def completions(self, request: Request) -> Response:
        return await self._generate(request, await _read(request, CompletionBody))

    async def chat_completions(self, request: Request) -> Response:
        return await self._generate(request, await _read(request, ChatBody))

    async def responses(self, request: Request) -> Response:
        return await self._generate(request, (await _read(request, ResponsesBody)).chat())

    async def embeddings(self, request: Request) -> Response:
        work = self._service.embed(await _read(request, EmbeddingsBody))
        answer = await _while_wanted(request, work)
        return Response(status_code=CLIENT_LEFT) if answer is None else _json(answer)

    async def tokenize(self, request: Request) -> Response:
        return _json(self._service.tokenize(await _read(request, TokenizeBody)))

    async def detokenize(self, request: Request) -> Response:
        return _json(self._service.detokenize(await _read(request, DetokenizeBody)))

    async def models(self) -> Response:
        cards = [self._card(name) for name in self._service.model_names()]
        return JSONResponse({"object": "list", "data": cards})

    async def model(self, name: str) -> Response:
        if name not in self._service.model_names():
            raise NotFoundError(
                f"model {name[:80]!r} does not exist; this endpoint serves "
                f"{self._service.model_names()}",
                param="model",
            )
        return JSONResponse(self._card(name))

    async def load_adapter(self, request: Request) -> Response:
        body = await _read(request, AdapterBody)
        if body.lora_name == self._service.model_name:
            raise RequestError(
                f"lora_name {body.lora_name!r} is the base model's name; choose another",
                param="lora_name",
            )
        await self._runner.load_adapter(body.lora_name, Path(body.lora_path))
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        body = await _read(request, AdapterNameBody)
        await self._runner.unload_adapter(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    async def health(self) -> Response:
        if not self._runner.is_healthy:
            raise UnavailableError("the engine is not running; see the server's log")
        return Response(status_code=200)

    async def metrics(self) -> Response:
        content = exposition(self._runner.engine, self._service.model_name)
        return Response(content, media_type="text/plain; version=0.0.4")

    async def version(self) -> Response:
        return JSONResponse(
            {
                "version": version("motley"),
                "engine": "motley",
                "guarantee": self._runner.engine.guarantee,
            }
        )

    async def _generate(self, request: Request, body: GenerateBody) -> Response:
        prepared = await self._service.prepare(body, request.state.request_id)
        if not body.stream:
            answer = await _while_wanted(request, self._service.answer(body, prepared))
            return Response(status_code=CLIENT_LEFT) if answer is None else JSONResponse(answer)
        events = self._service.stream(body, prepared)
        # The first event decides the status: what is refused before it is no stream yet.
        first = await _while_wanted(request, _first(events))
        if first is None:
            return Response(status_code=CLIENT_LEFT)
        return StreamingResponse(_chain(first, events), media_type="text/event-stream")

    def _card(self, name: str) -> dict[str, object]:
        base = self._service.model_name
        return {
            "id": name,
            "object": "model",
            "created": self._start_time,
            "owned_by": "motley",
            "parent": None if name == base else base,
        }


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _while_wanted(request: Request, work: Coroutine[None, None, Result]) -> Result | None:
    """Return the result of `work`, or abort it and return None when the client goes away first."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working, leaving})


async def _first(events: AsyncGenerator[str]) -> str:
    return await anext(events)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _chain(first: str, events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(events) as rest:
        yield first
        async for event in rest:
            yield event


async def _read(request: Request, model: type[Body]) -> Body:
    """Parse a JSON body.

    Raises:
        TooLargeError: Above the size limit.
        RequestError: If it is no JSON object or breaks the schema.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the body is above {MAX_BODY_BYTES} bytes; send a smaller one")
        chunks.append(chunk)
    raw = b"".join(chunks)
    try:
        content = json.loads(raw)
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        reason = str(error)[:120]
        raise RequestError(f"the body is not valid JSON ({reason}); correct it") from None
    if not isinstance(content, dict):
        raise RequestError(f"the body is a JSON {type(content).__name__}; send an object")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        param = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else None
        raise RequestError(describe(error), param=param) from None


async def _serving_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServingError), "registered for this class"
    status, body = error_body(error)
    if status >= 500:
        logger.warning("request failed request_id=%s error=%s", request.state.request_id, error)
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(body, status, headers)


async def _unforeseen_error(request: Request, error: Exception) -> Response:
    # The process edge: the server logs the traceback, the client gets OpenAI's body.
    return await _serving_error(request, EngineError("the server failed; see its log"))


async def _routing_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    path = request.url.path
    if error.status_code == 405:
        return await _serving_error(request, MethodError(f"{path} does not take {request.method}"))
    return await _serving_error(request, NotFoundError(f"there is no path {path}; see /v1/models"))


async def _carry_request_id(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    given = request.headers.get("x-request-id", "")
    request.state.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)
    response = await call_next(request)
    response.headers["x-request-id"] = request.state.request_id
    return response
