"""The emulated engine's task: starts a step, waits as long as it takes, hands out its tokens."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry, Counter, generate_latest

from planner.profiling.clock import Clock
from serving.adapter_folder import BaseDigest, check_adapter
from serving.edge import SHUTTING_DOWN
from serving.emulated.engine import EmulatedEngine
from serving.engine.engine import Engine
from serving.engine.reading import Reading, ReadRequest
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.engine_client import EngineClient, EngineFacts
from serving.errors import EngineError, ServingError, UnavailableError, UnsupportedError
from serving.metrics import exposition
from serving.time_limit import start_timer

logger = logging.getLogger(__name__)

LATE_SECONDS = 0.05
"""From here on behind its schedule, the process and not the model sets the pace: it is counted."""

_WARNING_SECONDS = 10.0
"""Between two warnings of it."""


class EmulatedRunner(EngineClient):
    """An emulated engine, all of it in the event loop.

    Steps follow one another at the modelled times, not at those the loop woke up at: a late token
    makes no other late.
    """

    def __init__(
        self,
        engine: EmulatedEngine,
        clock: Clock | None = None,
        *,
        request_timeout_seconds: float | None = None,
        base_digest: BaseDigest | None = None,
    ) -> None:
        """Start idle.

        Args:
            engine: What is asked.
            clock: Must be that of the loop, and is by default.
            request_timeout_seconds: Longest a request may take; None sets no limit.
            base_digest: Gives what adapters' manifests are compared with; None compares nothing.
        """
        self.engine = engine
        """For reading counts, limits and names."""
        self.num_late_steps = 0
        """Steps that ended later than modelled, by `LATE_SECONDS` at least."""
        self._clock = clock or Clock()
        self._timeout_seconds = request_timeout_seconds
        self._base_digest = base_digest
        self._streams: dict[str, asyncio.Queue[GenerationOutput | ServingError]] = {}
        self._task: asyncio.Task[None] | None = None
        self._closed_reason: str | None = None
        self._warned_at = float("-inf")

    @property
    def problem(self) -> str | None:
        """Why requests cannot be served; None where they can."""
        return self._closed_reason

    @property
    def facts(self) -> EngineFacts:
        """What is fixed about the emulated model."""
        return self.engine.facts

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return self.engine.adapter_names

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput]:
        """Yield a request's outputs as they come; leaving the iterator aborts the request.

        Raises:
            RequestError: If the request cannot be served as asked.
            OverloadedError: If the queue is full.
            SlowRequestError: If it takes longer than it may.
            UnavailableError: If the endpoint ends meanwhile.
            EngineError: If the engine fails meanwhile.
        """
        if self._closed_reason is not None:
            raise UnavailableError(self._closed_reason)
        self.engine.add(request)
        stream = self._streams[request.request_id] = asyncio.Queue()
        timer = start_timer(stream, self._timeout_seconds)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            while True:
                output = await stream.get()
                if isinstance(output, ServingError):
                    raise output
                yield output
                if output.finish_reason is not None:
                    return
        finally:
            if timer is not None:
                timer.cancel()
            self.engine.abort(request.request_id)
            self._streams.pop(request.request_id, None)

    async def read(self, request: ReadRequest) -> Reading:
        """Refuse: there is no model that could read.

        Raises:
            UnsupportedError: Always.
        """
        raise UnsupportedError(
            "an emulated engine has no model: it gives no embeddings and scores no prompt"
        )

    async def stop(self) -> None:
        """Take no more requests, and end the running ones with an error."""
        self._close(UnavailableError(SHUTTING_DOWN))

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Answer under `name` too; the folder is checked as far as it can be without a model."""
        await self._check(folder)
        self.engine.load_adapter(name, folder)

    async def replace_adapter(self, name: str, folder: Path) -> None:
        """Answer under `name` for another folder."""
        await self._check(folder)
        self.engine.replace_adapter(name, folder)

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self.engine.unload_adapter(name)

    async def metrics(self, model_name: str) -> bytes:
        """Return the counters of every engine, and how often this one was late."""
        # The collector reads counts and limits alone, and the emulated engine has all of them.
        shared = exposition(cast("Engine", self.engine), model_name)
        registry = CollectorRegistry()
        late_steps = Counter(
            "motley:emulation_late_steps",
            f"Steps that ended {LATE_SECONDS:g} seconds or more behind the modelled time",
            labelnames=["model_name"],
            registry=registry,
        )
        late_steps.labels(model_name).inc(self.num_late_steps)
        return shared + generate_latest(registry)

    async def _check(self, folder: Path) -> None:
        await asyncio.to_thread(check_adapter, folder, base=self._base_digest)

    async def _run(self) -> None:
        """Step while there is work; the next request starts another task."""
        try:
            step_ends_at = self._clock.now()
            while seconds := self.engine.start_step():
                step_ends_at += seconds
                await self._wait_until(step_ends_at)
                for output in self.engine.end_step():
                    self._streams[output.request_id].put_nowait(output)
        except Exception as error:
            # The edge of the engine: the cause is logged, clients get a plain sentence.
            logger.exception("engine failed")
            reason = f"the engine failed ({type(error).__name__}); see the server's log"
            self._close(EngineError(reason))
        self._task = None

    async def _wait_until(self, seconds: float) -> None:
        late_seconds = self._clock.now() - seconds
        await self._clock.sleep(max(0.0, -late_seconds))
        if late_seconds < LATE_SECONDS:
            return
        self.num_late_steps += 1
        if self._clock.now() - self._warned_at >= _WARNING_SECONDS:
            self._warned_at = self._clock.now()
            logger.warning(
                "emulation is late late_seconds=%.3f late_steps=%d running=%d: this process cannot "
                "keep the modelled pace; offer less or emulate fewer sequences",
                late_seconds,
                self.num_late_steps,
                self.engine.num_running,
            )

    def _close(self, error: ServingError) -> None:
        self._closed_reason = str(error)
        for stream in self._streams.values():
            stream.put_nowait(error)
