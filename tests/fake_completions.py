"""A small OpenAI completions server with attributes to change, in a thread of its own."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from fakes import served_in_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route


@dataclass
class FakeCompletions:
    """Answers with as many words as asked for; a word and an id are a token."""

    model: str = "tiny"
    key: str | None = None
    """What a request must carry."""
    takes_token_ids: bool = True
    takes_ignore_eos: bool = True
    words_per_token: int = 1
    """Words that make a token of a text prompt."""
    counts_tokens: bool = True
    max_model_len: int | None = None
    fails_from: int | None = None
    """Number of the first completion that is answered with status 500."""
    bodies: list[dict[str, object]] = field(default_factory=list)

    @contextlib.contextmanager
    def served(self) -> Iterator[str]:
        """Serve in a thread and yield the address."""
        with served_in_thread(self._app()) as url:
            yield url

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/version", self._version),
                Route("/metrics", self._metrics),
            ]
        )

    async def _models(self, request: Request) -> Response:
        card = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        return JSONResponse({"object": "list", "data": [card]})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": "9.8"})

    async def _metrics(self, request: Request) -> Response:
        info = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
        return PlainTextResponse("# TYPE vllm:cache_config_info gauge\n" + info)

    async def _complete(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.bodies.append(body)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "Invalid key")
        if body["model"] != self.model:
            return _error(404, f"model {body['model']} does not exist")
        if isinstance(body["prompt"], list) and not self.takes_token_ids:
            return _error(400, "prompt must be a text")
        if "ignore_eos" in body and not self.takes_ignore_eos:
            return _error(400, "unknown field ignore_eos")
        if self.fails_from is not None and len(self.bodies) >= self.fails_from:
            return _error(500, "scripted")
        return StreamingResponse(self._events(body), media_type="text/event-stream")

    async def _events(self, body):
        prompt = body["prompt"]
        tokens = len(prompt) if isinstance(prompt, list) else len(prompt.split())
        if isinstance(prompt, str):
            tokens = -(-tokens // self.words_per_token)
        for number in range(body["max_tokens"]):
            is_last = number == body["max_tokens"] - 1
            yield _event({"text": " w", "finish_reason": "length" if is_last else None})
        if self.counts_tokens:
            usage = {"prompt_tokens": tokens, "completion_tokens": body["max_tokens"]}
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"


def _event(choice: dict[str, object]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, **choice}], 'usage': None})}\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "code": status}}, status)
