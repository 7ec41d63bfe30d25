"""Stand-ins for the servers Motley talks to, on real loopback sockets."""

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from router.client_protocol import ClientProtocol

Behaviour = Literal["answer", "die_before_first_byte", "die_mid_stream", "refuse", "hang"]


class LoopbackServer:
    """An ASGI application on a free port of 127.0.0.1, in a task of the running loop."""

    def __init__(self, app: ASGIApp, *, http: Literal["httptools"] | type = "httptools") -> None:
        config = uvicorn.Config(
            app, http=http, ws="none", lifespan="off", log_config=None, log_level="critical"
        )
        self._server = _QuietServer(config)
        self._listener = socket.socket()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Listen, and return the address."""
        self._listener.bind(("127.0.0.1", 0))
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        listening = asyncio.create_task(self._server.listening.wait())
        await asyncio.wait({listening, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not listening.done():
            listening.cancel()
            await self._task
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def kill(self) -> None:
        """Drop the listening socket and every connection at once, as a killed process does."""
        for server in self._server.servers:
            server.close()
        self._listener.close()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    def drop_connections(self) -> None:
        """Close every connection properly; new ones are taken."""
        for connection in list(self._server.server_state.connections):
            connection.transport.close()

    def abort_connection(self, client: tuple[str, int] | None) -> None:
        """Reset the connection that comes from `client`."""
        for connection in list(self._server.server_state.connections):
            if connection.client == client:
                connection.transport.abort()

    async def stop(self) -> None:
        """End everything that still runs."""
        if self._server.started:
            self.kill()
        tasks = list(self._server.server_state.tasks)
        if self._task is not None:
            tasks.append(self._task)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()


class _QuietServer(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets=sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the test process's signals alone."""
        yield


@asynccontextmanager
async def served(app: ASGIApp) -> AsyncIterator[str]:
    """Yield the address of `app` on a loopback socket, served as the router serves."""
    server = LoopbackServer(app, http=ClientProtocol)
    try:
        yield await server.start()
    finally:
        await server.stop()


@contextlib.contextmanager
def served_in_thread(app: ASGIApp) -> Iterator[str]:
    """Yield the address of `app`, which runs in a thread of its own."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with served(app) as url:
            urls.append(url)
            ready.set()
            while not stop.is_set():
                await asyncio.sleep(0.01)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield urls[0]
    finally:
        stop.set()
        thread.join()


@dataclass
class Received:
    """A request as a fake replica got it."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, object]:
        """Return the parsed body."""
        return json.loads(self.body)


@dataclass
class FakeReplica:
    """An OpenAI server that answers by script; attributes may be changed while it runs."""

    model: str = "tiny"
    behaviour: Behaviour = "answer"
    """What happens to completion requests."""
    status: int = 503
    """The status of `refuse`."""
    refusal_headers: dict[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ("def", " main", "(", ")", ":")
    """The completion, one chunk a word."""
    delay_seconds: float = 0.0
    """Before the first byte."""
    pause_seconds: float = 0.0
    """Before each further chunk."""
    honours_usage: bool = True
    """Whether `include_usage` has an effect."""
    null_usage: bool = False
    """Whether, with `include_usage`, all other chunks carry `"usage": null`."""
    line_end: str = "\n"
    is_healthy: bool = True
    pieces: list[bytes] | None = None
    """A scripted stream: sent as it is, piece by piece, in place of the words."""
    adapters: set[str] = field(default_factory=set)
    adapter_status: int = 200
    key: str | None = None
    """What `/admin/adapters` asks for; None nothing."""
    takes_uploads: bool = True
    max_upload_bytes: int | None = 2 << 30
    list_seconds: float = 0.0
    """Before `/admin/adapters` is answered."""
    requests: list[Received] = field(default_factory=list)
    """Every POST, in order of arrival."""
    num_cancelled: int = 0
    """Completions the client left before their end."""
    url: str = ""

    async def __aenter__(self) -> "FakeReplica":
        self._server = LoopbackServer(self.app())
        self.url = await self._server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop()

    def kill(self) -> None:
        """Die as a killed process does."""
        self._server.kill()

    def drop_connections(self) -> None:
        """Close every connection; new ones are taken."""
        self._server.drop_connections()

    def app(self) -> Starlette:
        """Return the server's ASGI application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/load_lora_adapter", self._load_adapter, methods=["POST"]),
                Route("/admin/adapters", self._list_adapters),
                Route("/admin/adapters/{name:path}", self._upload_adapter, methods=["POST"]),
                Route("/admin/adapters/{name:path}", self._remove_adapter, methods=["DELETE"]),
                Route("/v1/unload_lora_adapter", self._unload_adapter, methods=["POST"]),
            ]
        )

    def stream_bytes(self, *, with_usage: bool) -> bytes:
        """Return the scripted answer as a stream, with or without the last usage chunk."""
        return b"".join(self._events(with_usage=with_usage))

    @property
    def usage(self) -> dict[str, int]:
        """Return the token counts of every answer."""
        num_words = len(self.words)
        return {
            "prompt_tokens": 7,
            "completion_tokens": num_words,
            "total_tokens": 7 + num_words,
        }

    async def _health(self, request: Request) -> Response:
        return Response(status_code=200 if self.is_healthy else 503)

    async def _models(self, request: Request) -> Response:
        names = [self.model, *sorted(self.adapters)]
        data = [{"id": name, "object": "model", "owned_by": "fake"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def _load_adapter(self, request: Request) -> Response:
        fields = (await self._receive(request)).fields
        if self.adapter_status != 200:
            return JSONResponse({"error": {"message": "no"}}, status_code=self.adapter_status)
        self.adapters.add(str(fields["lora_name"]))
        return Response("Success")

    async def _unload_adapter(self, request: Request) -> Response:
        fields = (await self._receive(request)).fields
        self.adapters.discard(str(fields["lora_name"]))
        return Response("Success")

    async def _list_adapters(self, request: Request) -> Response:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return JSONResponse({"error": {"message": "no key"}}, status_code=401)
        if not self.takes_uploads:
            return JSONResponse({"error": {"message": "no such path"}}, status_code=404)
        await asyncio.sleep(self.list_seconds)
        cards = [{"id": name} for name in sorted(self.adapters)]
        return JSONResponse({"data": cards, "max_upload_bytes": self.max_upload_bytes})

    async def _upload_adapter(self, request: Request) -> Response:
        if self.adapter_status == 413:  # as a limit is told: before the body has been read
            return JSONResponse({"error": {"message": "too large"}}, status_code=413)
        digest = hashlib.sha256()
        async for chunk in request.stream():
            digest.update(chunk)
        received = Received(request.url.path, dict(request.headers), digest.hexdigest().encode())
        self.requests.append(received)
        if self.adapter_status != 200:
            return JSONResponse({"error": {"message": "no"}}, status_code=self.adapter_status)
        self.adapters.add(request.path_params["name"])
        return JSONResponse({"id": request.path_params["name"]})

    async def _remove_adapter(self, request: Request) -> Response:
        if request.path_params["name"] not in self.adapters:
            return JSONResponse({"error": {"message": "no adapter"}}, status_code=404)
        self.adapters.remove(request.path_params["name"])
        return JSONResponse({"deleted": True})

    async def _receive(self, request: Request) -> Received:
        body = await request.body()
        received = Received(request.url.path, dict(request.headers), body)
        self.requests.append(received)
        return received

    async def _complete(self, request: Request) -> Response:
        fields = (await self._receive(request)).fields
        if await self._is_left_within(
            request, 3600 if self.behaviour == "hang" else self.delay_seconds
        ):
            return Response(status_code=499)
        if self.behaviour == "refuse":
            content = {"error": {"message": "scripted", "type": "Scripted", "code": self.status}}
            return JSONResponse(content, self.status, headers=self.refusal_headers)
        if self.behaviour == "die_before_first_byte":
            self._abort(request)
        if fields.get("stream") is not True:
            if self.behaviour == "die_mid_stream":
                self._abort(request)
            return JSONResponse(self._whole())
        options = fields.get("stream_options") or {}
        asked = isinstance(options, dict) and options.get("include_usage") is True
        return StreamingResponse(
            self._stream(request, with_usage=asked and self.honours_usage),
            media_type="text/event-stream",
            headers={"x-fake": "kept"},
        )

    async def _is_left_within(self, request: Request, seconds: float) -> bool:
        """Wait, or return True as soon as the client disconnects."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while (await request.receive())["type"] != "http.disconnect":
                    pass
            self.num_cancelled += 1
            return True
        return False

    async def _stream(self, request: Request, *, with_usage: bool) -> AsyncIterator[bytes]:
        pieces = self.pieces or self._events(with_usage=with_usage)
        try:
            for index, piece in enumerate(pieces):
                if index == len(pieces) // 2 and self.behaviour == "die_mid_stream":
                    await asyncio.sleep(0.05)
                    self._abort(request)
                    return
                yield piece
                await asyncio.sleep(self.pause_seconds)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    def _abort(self, request: Request) -> None:
        client = request.client
        self._server.abort_connection((client.host, client.port) if client else None)

    def _events(self, *, with_usage: bool) -> list[bytes]:
        chunks: list[object] = [
            self._chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}])
        ]
        chunks += [self._chunk([{"index": 0, "delta": {"content": word}}]) for word in self.words]
        chunks.append(self._chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        if with_usage and self.null_usage:
            chunks = [{**chunk, "usage": None} for chunk in chunks if isinstance(chunk, dict)]
        if with_usage:
            chunks.append({**self._chunk([]), "usage": self.usage})
        ends = self.line_end * 2
        events = [f"data: {json.dumps(chunk, ensure_ascii=False)}{ends}" for chunk in chunks]
        return [event.encode() for event in [*events, f"data: [DONE]{ends}"]]

    def _chunk(self, choices: list[object]) -> dict[str, object]:
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": self.model,
            "choices": choices,
        }

    def _whole(self) -> dict[str, object]:
        message = {"role": "assistant", "content": "".join(self.words)}
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": self.usage,
        }
