"""The engine's thread, and the asynchronous streams it feeds."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from serving.engine.engine import Engine
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.errors import EngineError, UnavailableError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_Stream = asyncio.Queue[GenerationOutput]


@dataclass(frozen=True, slots=True)
class _Call(Generic[Result]):
    """A function to run in the engine's thread, and who waits for it; a cancelled one is skipped."""

    function: Callable[[], Result]
    future: Future[Result] = field(default_factory=Future)

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self.function()
        except Exception as error:  # noqa: BLE001 - handed to the caller, not swallowed
            self.future.set_exception(error)
        else:
            self.future.set_result(result)

    def refuse(self, reason: str) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(UnavailableError(reason))


class EngineRunner:
    """Owns the thread in which the engine steps; every call to the engine happens there."""

    def __init__(self, engine: Engine) -> None:
        """Take the engine; from now on others only read its counts and names."""
        self._engine = engine
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        self._streams: dict[str, tuple[asyncio.AbstractEventLoop, _Stream]] = {}
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        # Guards the end: once closed, nothing is queued that nobody would run.
        self._lock = threading.Lock()
        self._closed_reason: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be served."""
        return self._thread.is_alive() and self._closed_reason is None

    @property
    def engine(self) -> Engine:
        """The engine, for reading counts, limits and names; what changes it belongs to the thread."""
        return self._engine

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; running requests end with an error."""
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

        is_finished = False
        try:
            await self._call(add)
            while not is_finished:
                output = await stream.get()
                if output.error is not None:
                    is_finished = True
                    raise EngineError(output.error)
                is_finished = output.finish_reason is not None
                yield output
        finally:
            if not is_finished:
                self._calls.put(_Call(lambda: self._abort(request.request_id)))

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder between two steps."""
        await self._call(lambda: self._engine.load_adapter(name, folder))

    async def unload_adapter(self, name: str) -> None:
        """Forget a LoRA adapter between two steps."""
        await self._call(lambda: self._engine.unload_adapter(name))

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run `function` in the engine's thread and hand back what it returns or raises."""
        call = _Call(function)
        with self._lock:
            if self._closed_reason is not None:
                raise UnavailableError(self._closed_reason)
            self._calls.put(call)
        return await asyncio.wrap_future(call.future)

    def _abort(self, request_id: str) -> None:
        self._engine.abort(request_id)
        self._streams.pop(request_id, None)

    def _run(self) -> None:
        reason = "the server is shutting down; retry elsewhere"
        try:
            while self._handle_calls(wait=not self._engine.has_work):
                for output in self._engine.step():
                    self._deliver(output)
        except BaseException as error:
            # The edge of the engine's thread: the cause is logged, clients get a plain sentence.
            # A panic of an extension module is no Exception.
            logger.exception("engine failed")
            reason = f"the engine failed ({type(error).__name__}); see the server's log"
        try:
            self._engine.close()
        finally:
            self._close(reason)

    def _handle_calls(self, *, wait: bool) -> bool:
        """Run queued calls, waiting for one where there is nothing else to do; False to stop."""
        while wait or not self._calls.empty():
            call = self._calls.get()
            if call is None:
                return False
            call.run()
            wait = False
        return True

    def _deliver(self, output: GenerationOutput) -> None:
        loop, stream = self._streams[output.request_id]
        if output.finish_reason is not None or output.error is not None:
            del self._streams[output.request_id]
        if not loop.is_closed():
            loop.call_soon_threadsafe(stream.put_nowait, output)

    def _close(self, reason: str) -> None:
        with self._lock:
            self._closed_reason = reason
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call.refuse(reason)
        for request_id in list(self._streams):
            self._deliver(GenerationOutput(request_id, (), error=reason))
