"""The engine's thread, and the asynchronous streams it feeds."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from serving.engine.engine import Engine
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.errors import EngineError, UnavailableError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_Stream = asyncio.Queue[GenerationOutput]


class EngineRunner:
    """Owns the thread in which the engine steps; every call to the engine happens there."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine; nothing else may touch it from now on."""
        self._engine = engine
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[str, tuple[asyncio.AbstractEventLoop, _Stream]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._failure: str | None = None
        self._is_stopping = False

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be served."""
        return self._thread.is_alive() and self._failure is None and not self._is_stopping

    @property
    def engine(self) -> Engine:
        """The engine, for reading counters; its other methods belong to the thread."""
        return self._engine

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; running requests end with an error."""
        self._is_stopping = True
        self._calls.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput]:
        """Yield a request's outputs as they come; leaving the iterator aborts the request.

        Raises:
            RequestError: If the request cannot be served as asked.
            OverloadedError: If the queue is full.
            EngineError: If the engine fails meanwhile.
        """
        stream: _Stream = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def add() -> None:
            self._engine.add(request)
            self._streams[request.request_id] = (loop, stream)

        await self._call(add)
        is_finished = False
        try:
            while not is_finished:
                output = await stream.get()
                if output.error is not None:
                    is_finished = True
                    raise EngineError(output.error)
                is_finished = output.finish_reason is not None
                yield output
        finally:
            if not is_finished:
                self._calls.put(lambda: self._abort(request.request_id))

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder between two steps."""
        await self._call(lambda: self._engine.load_adapter(name, folder))

    async def unload_adapter(self, name: str) -> None:
        """Forget a LoRA adapter between two steps."""
        await self._call(lambda: self._engine.unload_adapter(name))

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run `function` in the engine's thread and hand back what it returns or raises."""
        if not self.is_healthy:
            raise UnavailableError(self._failure or "the engine is stopped; retry elsewhere")
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:  # noqa: BLE001 - handed to the caller, not swallowed
                future.set_exception(error)

        self._calls.put(run)
        return await asyncio.wrap_future(future)

    def _abort(self, request_id: str) -> None:
        self._engine.abort(request_id)
        self._streams.pop(request_id, None)

    def _run(self) -> None:
        try:
            while self._handle_calls(wait=not self._engine.has_work):
                for output in self._engine.step():
                    self._deliver(output)
        except Exception as error:
            # The edge of the engine's thread: the cause is logged, clients get a plain sentence.
            logger.exception("engine failed")
            self._failure = f"the engine failed ({type(error).__name__}); see the server's log"
        self._fail_everything(self._failure or "the server is shutting down")

    def _handle_calls(self, *, wait: bool) -> bool:
        """Run queued calls, waiting for one where there is nothing else to do; False to stop."""
        while wait or not self._calls.empty():
            call = self._calls.get()
            if call is None:
                return False
            call()
            wait = False
        return True

    def _deliver(self, output: GenerationOutput) -> None:
        loop, stream = self._streams[output.request_id]
        if output.finish_reason is not None or output.error is not None:
            del self._streams[output.request_id]
        if not loop.is_closed():
            loop.call_soon_threadsafe(stream.put_nowait, output)

    def _fail_everything(self, reason: str) -> None:
        for request_id in list(self._streams):
            self._deliver(GenerationOutput(request_id, (), error=reason))
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call()
