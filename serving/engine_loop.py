"""The one thread that touches an engine: calls from outside run there, between two steps."""

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from serving.engine.engine import Engine
from serving.engine.sequence import GenerationOutput
from serving.errors import UnavailableError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


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


class EngineLoop:
    """Steps an engine while there is work, in the thread that calls `run`."""

    def __init__(
        self,
        engine: Engine,
        deliver: Callable[[list[GenerationOutput]], None],
        *,
        tidy: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the engine; from now on others only read its counts and names.

        Args:
            engine: What steps.
            deliver: Called in the loop's thread with the outputs of each step that has any.
            tidy: Called there before each step and each wait for work.
        """
        self._engine = engine
        self._deliver = deliver
        self._tidy = tidy
        self._calls: queue.SimpleQueue[_Call[Any] | None] = queue.SimpleQueue()
        # Guards the end: once closed, nothing is queued that nobody would run.
        self._lock = threading.Lock()
        self._closed_reason: str | None = None

    @property
    def closed_reason(self) -> str | None:
        """Why the loop has ended, in words; None before that."""
        return self._closed_reason

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Have `function` run between two steps; any thread may ask.

        Raises:
            UnavailableError: If the loop has ended.
        """
        call = _Call(function)
        with self._lock:
            if self._closed_reason is not None:
                raise UnavailableError(self._closed_reason)
            self._calls.put(call)
        return call.future

    def post(self, function: Callable[[], object]) -> None:
        """Have `function` run between two steps, if there is one more; nobody waits for it."""
        self._calls.put(_Call(function))

    def stop(self) -> None:
        """Have `run` return after the present step; any thread may ask."""
        self._calls.put(None)

    def run(self) -> bool:
        """Step until told to stop; whether that is how it ended, and not by a failure."""
        reason = "the server is shutting down; retry elsewhere"
        is_sound = True
        try:
            while self._handle_calls(wait=not self._engine.has_work):
                if outputs := self._engine.step():
                    self._deliver(outputs)
        except BaseException as error:
            # The edge of the engine's thread: the cause is logged, clients get a plain sentence.
            # A panic of an extension module is no Exception.
            logger.exception("engine failed")
            reason = f"the engine failed ({type(error).__name__}); see the server's log"
            is_sound = False
        try:
            self._engine.close()
        finally:
            self._close(reason)
        return is_sound

    def _handle_calls(self, *, wait: bool) -> bool:
        """Run queued calls, waiting for one where there is nothing else to do; False to stop."""
        self._tidy()
        while wait or not self._calls.empty():
            call = self._calls.get()
            if call is None:
                return False
            call.run()
            wait = False
        return True

    def _close(self, reason: str) -> None:
        with self._lock:
            self._closed_reason = reason
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call.refuse(reason)
