"""The HTTP application in front of vLLM's server: passes OpenAI's paths on, byte by byte."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncGenerator

import aiohttp
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from serving.adapter_roots import AdapterRoots
from serving.adapter_store import AdapterStore
from serving.edge import Gate
from serving.errors import (
    NotFoundError,
    ServingError,
    SlowRequestError,
    UnavailableError,
    error_body,
)
from serving.http_requests import CLIENT_LEFT, read_bytes, while_wanted
from serving.keys import KeyRing
from serving.operations import build_operations
from serving.time_limit import too_slow
from serving.vllm_engine.engine import VllmEngine
from serving.vllm_engine.upstream import VllmUpstream

logger = logging.getLogger(__name__)

_PASSED = re.compile(r"/(v1/(?!(un)?load_lora_adapter).*|tokenize|detokenize)")
"""Paths that are vLLM's to answer; its others are for its own operators."""
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_FROM_CLIENT = ("accept", "content-type")
_TO_CLIENT = ("content-type", "retry-after", "x-data-parallel-rank")


def build_proxy(
    engine: VllmEngine,
    upstream: VllmUpstream,
    model_name: str,
    *,
    keys: KeyRing | None = None,
    roots: AdapterRoots | None = None,
    store: AdapterStore | None = None,
    gate: Gate | None = None,
    request_timeout_seconds: float | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        engine: Says whether the server can be asked.
        upstream: The way to it.
        model_name: What the base model is served as.
        keys: Who may ask; None everybody.
        roots: Where clients may have adapters loaded from; None everywhere.
        store: Keeps adapters that clients send; None takes none.
        gate: Counts requests and sends new ones away while the endpoint drains.
        request_timeout_seconds: Longest a request may take; None sets no limit.
    """
    app = build_operations(engine, model_name, keys=keys, roots=roots, store=store, gate=gate)
    proxy = _Proxy(engine, upstream, request_timeout_seconds)
    app.add_api_route("/{path:path}", proxy.pass_on, methods=_METHODS, response_model=None)
    return app


class _Proxy:
    """The handler of what is vLLM's to answer."""

    def __init__(
        self, engine: VllmEngine, upstream: VllmUpstream, timeout_seconds: float | None
    ) -> None:
        self._engine = engine
        self._upstream = upstream
        self._timeout_seconds = timeout_seconds

    async def pass_on(self, request: Request) -> Response:
        path = request.url.path
        if not _PASSED.fullmatch(path):
            raise NotFoundError(f"there is no path {path[:200]}; see /v1/models")
        self._engine.check_ready()
        body = await read_bytes(request)
        answer = await while_wanted(request, self._ask(request, body))
        if answer is None:
            return Response(status_code=CLIENT_LEFT)
        if isinstance(answer, bytes):
            return Response(answer, media_type="application/json")
        kept = {name: answer.headers[name] for name in _TO_CLIENT if name in answer.headers}
        return StreamingResponse(
            self._pieces(request, answer), status_code=answer.status, headers=kept
        )

    async def _ask(self, request: Request, body: bytes) -> aiohttp.ClientResponse | bytes:
        """Return vLLM's answer, waiting included within what a request may take.

        Raises:
            SlowRequestError: If it takes longer.
            UnavailableError: If there is none.
        """
        loop, limit_seconds = asyncio.get_running_loop(), self._timeout_seconds
        deadline = None if limit_seconds is None else loop.time() + limit_seconds
        try:
            async with asyncio.timeout_at(deadline):
                return await self._ask_until(deadline, request, body)
        except (TimeoutError, SlowRequestError):
            assert limit_seconds is not None, "nothing else sets a limit"
            raise too_slow(limit_seconds) from None

    async def _ask_until(
        self, deadline: float | None, request: Request, body: bytes
    ) -> aiohttp.ClientResponse | bytes:
        """Return vLLM's answer; what it does not find while an adapter is replaced is asked again.

        Its list of models is then the one from before: requests for each of them are served.
        """
        adapters, loop = self._engine.adapters, asyncio.get_running_loop()
        is_list = (request.method, request.url.path) == ("GET", "/v1/models")
        headers = {name: request.headers[name] for name in _FROM_CLIENT if name in request.headers}
        headers["x-request-id"] = request.state.request_id
        target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        while True:
            if is_list and adapters.listing is not None:
                return adapters.listing
            was_settled, num_swaps = adapters.is_settled, adapters.num_swaps
            answer = await self._upstream.send(
                request.method,
                target,
                headers=headers,
                body=body,
                timeout_seconds=None if deadline is None else deadline - loop.time(),
            )
            if was_settled and num_swaps == adapters.num_swaps:
                return answer
            if answer.status != 404 and not is_list:
                return answer
            answer.close()
            if not is_list:
                await adapters.settled()

    async def _pieces(
        self, request: Request, answer: aiohttp.ClientResponse
    ) -> AsyncGenerator[bytes]:
        """Yield an answer's bytes as they come; leaving early closes it, which aborts it there."""
        failure: ServingError
        try:
            while piece := await answer.content.readany():
                yield piece
            return
        except TimeoutError:
            assert self._timeout_seconds is not None, "nothing else sets a limit"
            failure = too_slow(self._timeout_seconds)
        except (aiohttp.ClientError, OSError):
            failure = UnavailableError("vllm broke off in the middle of this answer; retry")
        finally:
            answer.close()
        self._engine.num_broken += 1
        logger.warning("answer broke off request_id=%s error=%s", request.state.request_id, failure)
        if answer.content_type != "text/event-stream":
            raise failure  # a length was promised: the connection ends short of it
        yield f"data: {json.dumps(error_body(failure)[1], separators=(',', ':'))}\n\n".encode()
