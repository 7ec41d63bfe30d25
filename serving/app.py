"""The HTTP application: OpenAI's paths over an answer service."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore
from serving.answers import AnswerService
from serving.api_document import api_document
from serving.edge import Gate
from serving.embeddings_api import EmbeddingsBody
from serving.engine_client import EngineClient
from serving.errors import NotFoundError
from serving.http_requests import CLIENT_LEFT, read_body, while_wanted
from serving.keys import KeyRing
from serving.openai_api import ChatBody, CompletionBody, GenerateBody
from serving.operations import build_operations
from serving.responses_api import ResponsesBody
from serving.tokenize_api import DetokenizeBody, TokenizeBody


def build_app(
    service: AnswerService,
    engine: EngineClient,
    *,
    keys: KeyRing | None = None,
    roots: AdapterRoots | None = None,
    store: AdapterStore | None = None,
    gate: Gate | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        service: Answers requests.
        engine: What it answers with.
        keys: Who may ask; None everybody.
        roots: Where clients may have adapters loaded from; None everywhere.
        store: Keeps adapters that clients send; None takes none.
        gate: Counts requests and sends new ones away while the endpoint drains.
    """
    app = build_operations(
        engine,
        service.model_name,
        keys=keys,
        roots=roots,
        store=store,
        gate=gate,
        openapi_url="/openapi.json",
        more_metrics=service.times.exposition,
    )
    endpoint = _Endpoint(service)
    for method, path, handler in (
        ("POST", "/v1/completions", endpoint.completions),
        ("POST", "/v1/chat/completions", endpoint.chat_completions),
        ("POST", "/v1/responses", endpoint.responses),
        ("POST", "/v1/embeddings", endpoint.embeddings),
        ("POST", "/tokenize", endpoint.tokenize),
        ("POST", "/detokenize", endpoint.detokenize),
        ("GET", "/v1/models", endpoint.models),
        ("GET", "/v1/models/{name:path}", endpoint.model),
    ):
        app.add_api_route(path, handler, methods=[method], response_model=None)
    app.openapi = lambda: api_document(service.model_name)  # type: ignore[method-assign]
    return app


class _Endpoint:
    """The handlers, over one service."""

    def __init__(self, service: AnswerService) -> None:
        self._service = service
        self._start_time = int(time.time())

    async def completions(self, request: Request) -> Response:
        return await self._generate(request, await read_body(request, CompletionBody))

    async def chat_completions(self, request: Request) -> Response:
        return await self._generate(request, await read_body(request, ChatBody))

    async def responses(self, request: Request) -> Response:
        return await self._generate(request, (await read_body(request, ResponsesBody)).chat())

    async def embeddings(self, request: Request) -> Response:
        work = self._service.embed(await read_body(request, EmbeddingsBody))
        answer = await while_wanted(request, work)
        return Response(status_code=CLIENT_LEFT) if answer is None else _json(answer)

    async def tokenize(self, request: Request) -> Response:
        return _json(await self._service.tokenize(await read_body(request, TokenizeBody)))

    async def detokenize(self, request: Request) -> Response:
        return _json(await self._service.detokenize(await read_body(request, DetokenizeBody)))

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

    async def _generate(self, request: Request, body: GenerateBody) -> Response:
        work = self._begin(body, request.state.request_id)
        return await while_wanted(request, work) or Response(status_code=CLIENT_LEFT)

    async def _begin(self, body: GenerateBody, request_id: str) -> Response:
        """Return the whole answer, or a stream whose first event is there."""
        prepared = await self._service.prepare(body, request_id)
        if not body.stream:
            return JSONResponse(await self._service.answer(body, prepared))
        events = self._service.stream(body, prepared)
        # The first event decides the status: what is refused before it is no stream yet.
        first = await anext(events)
        return StreamingResponse(_chain(first, events), media_type="text/event-stream")

    def _card(self, name: str) -> dict[str, object]:
        base = self._service.model_name
        return {
            "id": name,
            "object": "model",
            "created": self._start_time,
            "owned_by": "motley",
            "root": base,
            "parent": None if name == base else base,
        }


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _chain(first: str, events: AsyncGenerator[str]) -> AsyncGenerator[str]:
    async with aclosing(events) as rest:
        yield first
        async for event in rest:
            yield event
