"""Keeps one vLLM server running: waits until it is ready, restarts it after a crash, stops it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.profiling.clock import Clock
from serving.edge import SHUTTING_DOWN
from serving.errors import EngineError, ServingError
from serving.supervision import Backoff, report_crash
from serving.vllm_engine.process import VllmProcess

logger = logging.getLogger(__name__)

LOADING = "vllm is loading the model; retry later"

_POLL_SECONDS = 0.5
_BACKOFF = Backoff(first_seconds=1.0, most_seconds=60.0, steady_seconds=300.0)
_GRACE_SECONDS = 20.0
"""From being asked to end to being ended."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start the server."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    uds: Path
    """The socket that it is told to listen on."""
    start_seconds: float
    """Longest that loading may take."""

    def clear(self) -> None:
        """Remove the socket that a crash left behind: vLLM does not bind a path that exists."""
        self.uds.unlink(missing_ok=True)


class VllmSupervisor:
    """Runs `Launch` again and again until it is stopped; `problem` says why it cannot be asked.

    Belongs to one event loop.
    """

    def __init__(
        self,
        launch: Launch,
        *,
        is_ready: Callable[[], Awaitable[bool]],
        on_ready: Callable[[], Awaitable[None]],
        clock: Clock | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            launch: How to start.
            is_ready: Whether the server answers its health check.
            on_ready: Awaited after each start, before requests are let in.
            clock: Time; the process's own by default.
        """
        self._launch = launch
        self._is_ready = is_ready
        self._on_ready = on_ready
        self._clock = clock or Clock()
        self._process: VllmProcess | None = None
        self._supervision: asyncio.Task[None] | None = None
        self._loaded: asyncio.Future[None] | None = None
        self.problem: str | None = LOADING
        """Why requests cannot be served now; None where they can."""
        self.num_crashes = 0
        """Lives that ended unasked, after they had been ready or while they loaded again."""

    @property
    def pid(self) -> int | None:
        """Process id of the present life."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the server and keep it running; returns at once."""
        self._loaded = asyncio.get_running_loop().create_future()
        self._supervision = asyncio.create_task(self._supervise())
        self._supervision.add_done_callback(report_crash)

    async def wait_loaded(self) -> None:
        """Return once the server is ready for the first time.

        Raises:
            EngineError: If it cannot be started: its arguments or its environment are wrong, and it
                is not started again.
            ServingError: If what is to be done when it is ready cannot be.
        """
        assert self._loaded is not None, "started"
        await asyncio.shield(self._loaded)

    async def stop(self) -> None:
        """Stop the server, if it runs; running requests break off."""
        self.problem = SHUTTING_DOWN
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.wait({self._supervision})
        if self._process is not None:
            await self._process.stop(grace_seconds=_GRACE_SECONDS)

    async def _supervise(self) -> None:
        """Start, watch, restart; ends by `stop` alone, or by the failure of the first start."""
        assert self._loaded is not None, "started"
        num_failures = 0
        while True:
            try:
                ready_at, failure = await self._live()
            except ServingError as error:
                ready_at, failure = None, str(error)
                if not self._loaded.done():
                    self._loaded.set_exception(error)
            if not self._loaded.done():
                self._loaded.set_exception(EngineError(failure))
            if self._loaded.exception() is not None:
                self.problem = failure
                return
            self.num_crashes += 1
            lived_seconds = 0.0 if ready_at is None else self._clock.now() - ready_at
            num_failures = 1 if lived_seconds >= _BACKOFF.steady_seconds else num_failures + 1
            wait_seconds = _BACKOFF.seconds(num_failures)
            self.problem = f"{failure}; it is being restarted"
            logger.error(
                "vllm crashed failure=%r crashes=%d restart_in_seconds=%g last_lines=%s",
                failure,
                self.num_crashes,
                wait_seconds,
                list(self._process.last_lines) if self._process else [],
            )
            await self._clock.sleep(wait_seconds)

    async def _live(self) -> tuple[float | None, str]:
        """Run one life to its end; return when it was ready, if ever, and how it ended."""
        self._launch.clear()
        try:
            self._process = process = await VllmProcess.start(
                self._launch.words, self._launch.variables
            )
        except OSError as error:
            return None, f"{self._launch.words[0]} cannot be run ({error.strerror})"
        logger.info("vllm starting pid=%d", process.pid)
        if not await self._wait_until_ready(process):
            failure = self._why_not_ready(process)
            await process.stop(grace_seconds=_GRACE_SECONDS)
            return None, failure
        try:
            await self._on_ready()
        except ServingError:
            await process.stop(grace_seconds=_GRACE_SECONDS)
            raise
        ready_at, self.problem = self._clock.now(), None
        assert self._loaded is not None, "started"
        if not self._loaded.done():
            self._loaded.set_result(None)
        logger.info("vllm ready pid=%d", process.pid)
        code = await process.wait()
        await process.stop(grace_seconds=0)  # of what it may have left behind
        return ready_at, f"vllm ended with exit code {code}: {process.cause()}"

    async def _wait_until_ready(self, process: VllmProcess) -> bool:
        deadline = self._clock.now() + self._launch.start_seconds
        while process.exit_code is None and self._clock.now() < deadline:
            if await self._is_ready():
                return True
            await self._clock.sleep(_POLL_SECONDS)
        return False

    def _why_not_ready(self, process: VllmProcess) -> str:
        if process.exit_code is None:
            return (
                f"vllm was not ready after {self._launch.start_seconds:g} s; give --start-timeout "
                f"more, or see what it does: {process.cause()}"
            )
        return (
            f"vllm ended with exit code {process.exit_code} before it was ready: {process.cause()}"
        )
