"""The engine's process: loads, steps, answers the endpoint's messages, and ends with it."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from planner.console import configure_logging
from serving.engine.engine import Engine
from serving.engine.guidance import GrammarCompiler
from serving.engine.sequence import GenerationOutput
from serving.engine_loop import EngineLoop
from serving.engine_wire import (
    Abort,
    Add,
    Call,
    EngineEnd,
    LoadFailed,
    Outputs,
    Ready,
    Refused,
    Reply,
    ToEngine,
)
from serving.errors import EngineError, ServingError, UnavailableError
from serving.heap_trimmer import HeapTrimmer
from serving.metrics import exposition
from serving.runner import engine_facts

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostedEngine:
    """What a process is started to run."""

    engine: Engine
    tokenizer_json: str | None = None
    """For requests with grammars; None refuses them."""


EngineBuilder = Callable[[], HostedEngine]
"""Loads the model, in the engine's process; must be picklable."""


def host_engine(
    connection: socket.socket,
    build: EngineBuilder,
    adapters: Mapping[str, Path],
    *,
    needs_adapters: bool,
    is_verbose: bool,
) -> None:
    """Run an engine until the endpoint closes the socket: the target of the process.

    Args:
        connection: This end of a socket pair.
        build: Loads the engine.
        adapters: LoRA folders to load at once, by name.
        needs_adapters: Whether one that does not load ends the process, or is left out.
        is_verbose: Whether to log every step.
    """
    # Ctrl-C and a service manager signal the whole group; the endpoint decides when we end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging(verbose=is_verbose)
    host = _EngineHost(EngineEnd(connection))
    threading.Thread(target=host.listen, name="endpoint", daemon=True).start()
    sys.exit(host.run(build, adapters, needs_adapters=needs_adapters))


class _EngineHost:
    """One engine behind one socket."""

    def __init__(self, end: EngineEnd) -> None:
        self._end = end
        self._hosted: HostedEngine | None = None
        self._loop: EngineLoop | None = None
        self._compiler: GrammarCompiler | None = None

    def run(
        self, build: EngineBuilder, adapters: Mapping[str, Path], *, needs_adapters: bool
    ) -> int:
        """Load, then step until told otherwise; the exit code."""
        try:
            hosted = self._hosted = build()
            _load_adapters(hosted.engine, adapters, needs_all=needs_adapters)
        except ServingError as error:
            self._end.send(LoadFailed(error))
            return error.exit_code
        self._loop = EngineLoop(hosted.engine, self._deliver, tidy=HeapTrimmer().trim_if_due)
        self._end.send(Ready(engine_facts(hosted.engine), tuple(hosted.engine.adapter_names)))
        return 0 if self._loop.run() else 1

    def listen(self) -> None:
        """Handle the endpoint's messages until it goes; then end the process, whatever it does."""
        exit_code = 0
        try:
            while (message := self._end.receive()) is not None:
                self._handle(message)
        except Exception:
            # The edge of this thread: an engine that hears nothing more is of no use.
            logger.exception("engine process cannot go on")
            exit_code = 1
        # The main thread may be loading or in a step for minutes, and nobody waits for it.
        os._exit(exit_code)

    def _handle(self, message: ToEngine) -> None:
        match message:
            case Add():
                self._add(message)
            case Abort():
                self._abort(message.request_id)
            case Call():
                self._call(message)

    def _deliver(self, outputs: list[GenerationOutput]) -> None:
        self._end.send(Outputs.of(outputs))

    def _add(self, message: Add) -> None:
        assert self._loop is not None, "nothing is asked before we are ready"
        request_id = message.request.request_id
        try:
            request = message.request
            if message.grammar is not None:
                grammar = self._grammars().compile(message.grammar.kind, message.grammar.text)
                request = replace(request, grammar=grammar)
            added = self._loop.submit(partial(self._engine.add, request))
        except ServingError as error:
            self._end.send(Refused(request_id, error))
            return
        added.add_done_callback(partial(self._refuse_failed, request_id))

    def _refuse_failed(self, request_id: str, added: Future[None]) -> None:
        if (error := added.exception()) is not None:
            self._end.send(Refused(request_id, _as_serving_error(error)))

    def _abort(self, request_id: str) -> None:
        assert self._loop is not None, "nothing is asked before we are ready"
        self._loop.post(partial(self._engine.abort, request_id))

    def _call(self, call: Call) -> None:
        try:
            _CALLS[call.name](self, call)
        except UnavailableError as error:
            self._end.send(Reply(call.call_id, None, error))

    def _metrics(self, call: Call) -> None:
        # Reads counts only, and a scrape should not wait for a long step.
        (model_name,) = call.arguments
        self._end.send(Reply(call.call_id, exposition(self._engine, str(model_name)), None))

    def _between_steps(self, call: Call) -> None:
        assert self._loop is not None, "nothing is asked before we are ready"
        method = getattr(self._engine, call.name)
        done = self._loop.submit(partial(method, *call.arguments))
        done.add_done_callback(partial(self._reply, call.call_id))

    def _reply(self, call_id: int, done: Future[object]) -> None:
        if (error := done.exception()) is not None:
            self._end.send(Reply(call_id, None, _as_serving_error(error)))
        else:
            self._end.send(Reply(call_id, done.result(), None))

    @property
    def _engine(self) -> Engine:
        assert self._hosted is not None, "nothing is asked before we are ready"
        return self._hosted.engine

    def _grammars(self) -> GrammarCompiler:
        if self._compiler is None:
            assert self._hosted is not None, "nothing is asked before we are ready"
            if self._hosted.tokenizer_json is None:
                raise EngineError("the engine was started without a tokenizer for grammars")
            self._compiler = GrammarCompiler(
                self._hosted.tokenizer_json,
                vocabulary_size=self._engine.vocabulary_size,
                end_ids=self._engine.eos_ids,
            )
        return self._compiler


_CALLS: dict[str, Callable[[_EngineHost, Call], None]] = {
    "load_adapter": _EngineHost._between_steps,
    "replace_adapter": _EngineHost._between_steps,
    "unload_adapter": _EngineHost._between_steps,
    "read": _EngineHost._between_steps,
    "metrics": _EngineHost._metrics,
}
"""What an endpoint may call by name; a method of `Engine` where it runs between steps."""


def _load_adapters(engine: Engine, adapters: Mapping[str, Path], *, needs_all: bool) -> None:
    for name, folder in adapters.items():
        try:
            engine.load_adapter(name, folder)
        except ServingError as error:
            if needs_all:
                raise
            logger.error("adapter lost name=%s folder=%s error=%s", name, folder, error)


def _as_serving_error(error: BaseException) -> ServingError:
    if isinstance(error, ServingError):
        return error
    logger.error("call to the engine failed", exc_info=error)
    return EngineError(f"the engine failed ({type(error).__name__}); see the server's log")
