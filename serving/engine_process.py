"""An engine in a process of its own: started, watched, restarted, and spoken to over a socket."""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from serving.edge import SHUTTING_DOWN
from serving.engine.reading import Reading, ReadRequest
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.engine_child import EngineChild
from serving.engine_client import EngineClient, EngineFacts
from serving.engine_host import EngineBuilder
from serving.engine_wire import (
    Abort,
    Add,
    Call,
    FromEngine,
    LoadFailed,
    Outputs,
    Ready,
    Refused,
    Reply,
    ToEngine,
    frame,
    read_message,
)
from serving.errors import EngineError, ServingError, SlowRequestError, UnavailableError
from serving.metrics import process_exposition
from serving.supervision import Backoff, report_crash
from serving.time_limit import start_timer, time_limit

logger = logging.getLogger(__name__)

_CALL_SECONDS = 600.0
"""Longest a call to the engine may take: an adapter of gigabytes from a slow disk."""
_SCRAPE_SECONDS = 5.0
_RESTARTING = "the engine process ended and starts again; retry later"

RESTARTS = Backoff(first_seconds=0.5, most_seconds=60.0, steady_seconds=60.0)
"""Waits between two processes."""

_Stream = asyncio.Queue[GenerationOutput | ServingError]


class EngineProcess(EngineClient):
    """An engine in a child process, which is restarted whenever it ends by itself.

    Belongs to one event loop. A request that runs while the process ends gets an
    `UnavailableError`: what it has already streamed cannot be taken back, so nothing is repeated.
    """

    def __init__(
        self,
        build: EngineBuilder,
        *,
        adapters: Mapping[str, Path],
        request_timeout_seconds: float | None = None,
        child: EngineChild | None = None,
        backoff: Backoff = RESTARTS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember what to start.

        Args:
            build: Loads the engine, in the process; must be picklable.
            adapters: LoRA folders to load at the first start, by name; each must load.
            request_timeout_seconds: Longest a request may take from its start to its last token,
                waiting included; None sets no limit.
            child: A process already started with `build` and `adapters`, to be the first.
            backoff: Waits between restarts.
            monotonic: Clock for the back-off, in seconds.
        """
        self._build = build
        self._adapters = dict(adapters)
        self._timeout_seconds = request_timeout_seconds
        self._backoff = backoff
        self._monotonic = monotonic
        self._facts: EngineFacts | None = None
        self._problem: str | None = "the model is loading; retry later"
        self._child = child
        self._writer: asyncio.StreamWriter | None = None
        self._streams: dict[str, _Stream] = {}
        self._calls: dict[int, asyncio.Future[object]] = {}
        self._call_ids = itertools.count()
        self._supervision: asyncio.Task[None] | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._ready_at: float | None = None
        self.num_restarts = 0
        """Times the process was started again after it had ended by itself."""

    @property
    def problem(self) -> str | None:
        """Why requests cannot be served now; None where they can."""
        return self._problem

    @property
    def facts(self) -> EngineFacts:
        """What is fixed about the model; known from its first loading on."""
        if self._facts is None:
            raise UnavailableError(self._problem or "the model is loading; retry later")
        return self._facts

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted; during a restart, those it will load again."""
        return sorted(self._adapters)

    @property
    def pid(self) -> int | None:
        """Id of the present process; None between two."""
        return self._child.pid if self._child else None

    def start(self) -> None:
        """Start the process and keep it running; returns at once."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._supervision = asyncio.create_task(self._supervise())
        self._supervision.add_done_callback(report_crash)

    async def wait_loaded(self) -> None:
        """Return once the model is loaded for the first time.

        Raises:
            ServingError: If it cannot be; the process is not started again.
        """
        assert self._loaded is not None, "started"
        await asyncio.shield(self._loaded)

    async def stop(self) -> None:
        """End the process; running requests end with an error."""
        self._lose(SHUTTING_DOWN)
        if self._supervision is not None:
            self._supervision.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervision
        self._problem = SHUTTING_DOWN

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationOutput]:
        """Yield a request's outputs as they come; leaving the iterator aborts the request.

        Raises:
            RequestError: If the request cannot be served as asked.
            OverloadedError: If the queue is full.
            SlowRequestError: If it takes longer than it may.
            UnavailableError: If the engine cannot be reached now, or ends meanwhile.
            EngineError: If the engine fails at this request.
        """
        self._check_ready()
        name = request.request_id
        stream = self._streams[name] = asyncio.Queue()
        timer = start_timer(stream, self._timeout_seconds)
        is_over = False
        try:
            source = None if request.grammar is None else request.grammar.source
            self._send(Add(replace(request, grammar=None), source))
            while not is_over:
                output = await stream.get()
                if isinstance(output, ServingError):
                    is_over = not isinstance(output, SlowRequestError)
                    raise output
                is_over = output.finish_reason is not None or output.error is not None
                if output.error is not None:
                    raise output.error
                yield output
        finally:
            if timer is not None:
                timer.cancel()
            del self._streams[name]
            if not is_over:
                self._send(Abort(name))

    async def read(self, request: ReadRequest) -> Reading:
        """Run the target over a whole text between two steps: `Engine.read`."""
        async with time_limit(self._timeout_seconds):
            reading = await self._call("read", request)
        assert isinstance(reading, Reading), "the host answers with the engine's own"
        return reading

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder between two steps, and again at each restart."""
        await self._call("load_adapter", name, folder)
        self._adapters[name] = folder

    async def replace_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder in place of another of its name, and again at each restart."""
        await self._call("replace_adapter", name, folder)
        self._adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        """Forget a LoRA adapter between two steps."""
        await self._call("unload_adapter", name)
        self._adapters.pop(name, None)

    async def metrics(self, model_name: str) -> bytes:
        """Return the process's state, and the engine's counters where one runs."""
        own = process_exposition(
            model_name, num_restarts=self.num_restarts, is_up=self._problem is None
        )
        if self._problem is not None:
            return own
        try:
            text = await self._call("metrics", model_name, timeout_seconds=_SCRAPE_SECONDS)
        except EngineError as error:
            logger.warning("engine metrics missing error=%s", error)
            return own
        assert isinstance(text, bytes), "the host answers with the exposition"
        return text + own

    def _check_ready(self) -> None:
        if self._problem is not None:
            raise UnavailableError(self._problem)

    async def _call(
        self, name: str, *arguments: object, timeout_seconds: float = _CALL_SECONDS
    ) -> object:
        self._check_ready()
        call_id = next(self._call_ids)
        reply = self._calls[call_id] = asyncio.get_running_loop().create_future()
        try:
            self._send(Call(call_id, name, arguments))
            async with asyncio.timeout(timeout_seconds):
                return await reply
        except TimeoutError:
            raise EngineError(
                f"the engine did not answer {name} in {timeout_seconds:g} seconds; see its log"
            ) from None
        finally:
            self._calls.pop(call_id, None)

    def _send(self, message: ToEngine) -> None:
        if self._writer is not None:
            self._writer.write(frame(message))

    async def _supervise(self) -> None:
        """Keep a process running until cancelled; give up only if the first one never loads."""
        num_failures = 0
        while True:
            ending = await self._run_process()
            assert self._loaded is not None, "started"
            if not self._loaded.done():
                self._loaded.set_exception(
                    EngineError(f"the engine process {ending} while loading")
                )
            if self._facts is None:
                return
            # Loading is no service: one that ends whenever it has loaded waits ever longer.
            served_seconds = 0.0 if self._ready_at is None else self._monotonic() - self._ready_at
            num_failures = 1 if served_seconds > self._backoff.steady_seconds else num_failures + 1
            wait_seconds = self._backoff.seconds(num_failures)
            logger.error(
                "engine process ended ending=%r served_seconds=%.1f num_failures=%d "
                "restart_in_seconds=%.1f",
                ending,
                served_seconds,
                num_failures,
                wait_seconds,
            )
            self._problem = (
                f"the engine process ended (failure {num_failures} in a row) and starts again in "
                f"{wait_seconds:g} seconds; retry later"
            )
            await asyncio.sleep(wait_seconds)
            self._problem = _RESTARTING
            self.num_restarts += 1

    async def _run_process(self) -> str:
        """Run one process to its end, handling what it says; how it ended, in words."""
        child, self._child = self._child, None
        self._ready_at = None
        try:
            child = child or self._start_child()
        except OSError as error:
            return f"could not be started ({error.strerror})"
        self._child = child
        reader, self._writer = await asyncio.open_connection(sock=child.connection)
        try:
            while (message := await read_message(reader)) is not None:
                self._handle(message)
        finally:
            self._lose(_RESTARTING)
            self._writer.close()
            self._writer = None
            ending = await asyncio.shield(asyncio.to_thread(child.end))
            self._child = None
        return ending

    def _start_child(self) -> EngineChild:
        return EngineChild.start(
            self._build,
            self._adapters,
            needs_adapters=self._facts is None,
            is_verbose=logging.getLogger().isEnabledFor(logging.DEBUG),
        )

    def _handle(self, message: FromEngine) -> None:
        match message:
            case Outputs():
                self._deliver(message)
            case Refused():
                if (stream := self._streams.get(message.request_id)) is not None:
                    stream.put_nowait(message.error)
            case Reply():
                self._answer(message)
            case Ready():
                self._begin(message)
            case LoadFailed():
                self._fail_loading(message.error)

    def _deliver(self, outputs: Outputs) -> None:
        for row in outputs.rows:
            output = GenerationOutput(*row)  # type: ignore[arg-type]
            # None: the request was aborted meanwhile.
            if (stream := self._streams.get(output.request_id)) is not None:
                stream.put_nowait(output)

    def _answer(self, reply: Reply) -> None:
        waiting = self._calls.get(reply.call_id)
        if waiting is None or waiting.done():
            return
        if reply.error is not None:
            waiting.set_exception(reply.error)
        else:
            waiting.set_result(reply.result)

    def _begin(self, ready: Ready) -> None:
        self._facts = ready.facts
        self._ready_at = self._monotonic()
        self._adapters = {name: self._adapters[name] for name in ready.adapter_names}
        self._problem = None
        assert self._loaded is not None, "started"
        if not self._loaded.done():
            self._loaded.set_result(None)

    def _fail_loading(self, error: ServingError) -> None:
        assert self._loaded is not None, "started"
        if not self._loaded.done():
            self._loaded.set_exception(error)
        else:
            logger.error("engine cannot be loaded again error=%s", error)

    def _lose(self, reason: str) -> None:
        """End what waits for the process."""
        self._problem = reason
        for stream in self._streams.values():
            stream.put_nowait(UnavailableError(reason))
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(UnavailableError(reason))
