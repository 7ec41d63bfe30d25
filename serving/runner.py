"""An engine in a thread of this process, and the asynchronous streams it feeds."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

from serving.engine.engine import Engine
from serving.engine.reading import Reading, ReadRequest
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.engine_client import EngineClient, EngineFacts
from serving.engine_loop import EngineLoop
from serving.errors import EngineError
from serving.metrics import exposition

Result = TypeVar("Result")
_Stream = asyncio.Queue[GenerationOutput]


def engine_facts(engine: Engine) -> EngineFacts:
    """Return what is fixed about an engine."""
    return EngineFacts(
        context_tokens=engine.context_tokens,
        vocabulary_size=engine.vocabulary_size,
        eos_ids=engine.eos_ids,
        guarantee=engine.guarantee,
    )


class EngineRunner(EngineClient):
    """A thread in which the engine steps; every call to it happens there.

    `motley serve` gives the engine a process of its own instead (`engine_process.py`).
    """

    def __init__(self, engine: Engine) -> None:
        """Take the engine; from now on others only read its counts and names."""
        self._engine = engine
        self._streams: dict[str, tuple[asyncio.AbstractEventLoop, _Stream]] = {}
        self._loop = EngineLoop(engine, self._deliver)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def is_healthy(self) -> bool:
        """Whether requests can be served."""
        return self.problem is None

    @property
    def problem(self) -> str | None:
        """Why requests cannot be served; None where they can."""
        if self._loop.closed_reason is None and not self._thread.is_alive():
            return "the engine is not running; see the server's log"
        return self._loop.closed_reason

    @property
    def facts(self) -> EngineFacts:
        """What is fixed about the model."""
        return engine_facts(self._engine)

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return self._engine.adapter_names

    @property
    def engine(self) -> Engine:
        """The engine, for reading counts, limits and names; what changes it belongs to the thread."""
        return self._engine

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; running requests end with an error."""
        self._loop.stop()
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
                    raise output.error
                is_finished = output.finish_reason is not None
                yield output
        finally:
            if not is_finished:
                self._loop.post(lambda: self._abort(request.request_id))

    async def read(self, request: ReadRequest) -> Reading:
        """Run the target over a whole text between two steps: `Engine.read`."""
        return await self._call(lambda: self._engine.read(request))

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder between two steps."""
        await self._call(lambda: self._engine.load_adapter(name, folder))

    async def replace_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder in place of another of its name, between two steps."""
        await self._call(lambda: self._engine.replace_adapter(name, folder))

    async def unload_adapter(self, name: str) -> None:
        """Forget a LoRA adapter between two steps."""
        await self._call(lambda: self._engine.unload_adapter(name))

    async def metrics(self, model_name: str) -> bytes:
        """Return the engine's counters in Prometheus's text format."""
        return exposition(self._engine, model_name)

    async def _call(self, function: Callable[[], Result]) -> Result:
        """Run `function` in the engine's thread and hand back what it returns or raises."""
        return await asyncio.wrap_future(self._loop.submit(function))

    def _abort(self, request_id: str) -> None:
        self._engine.abort(request_id)
        self._streams.pop(request_id, None)

    def _run(self) -> None:
        self._loop.run()
        error = EngineError(self._loop.closed_reason or "the engine has stopped")
        self._deliver([GenerationOutput(name, (), error=error) for name in self._streams])

    def _deliver(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            loop, stream = self._streams[output.request_id]
            if output.finish_reason is not None or output.error is not None:
                del self._streams[output.request_id]
            if not loop.is_closed():
                loop.call_soon_threadsafe(stream.put_nowait, output)
