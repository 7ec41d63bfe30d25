"""Keeps one vLLM server running: waits until it is ready, restarts it after a crash, stops it."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.profiling.clock import Clock
from serving.errors import EngineError
from serving.vllm_engine.process import VllmProcess

logger = logging.getLogger(__name__)

LOADING = "vllm is loading the model; retry later"
STOPPING = "the server is shutting down; retry elsewhere"

_POLL_SECONDS = 0.5
_FIRST_BACKOFF_SECONDS = 1.0
_MOST_BACKOFF_SECONDS = 60.0
_SOUND_SECONDS = 300.0
"""A life that was ready for so long starts the back-off anew."""
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
    """Runs `Launch` again and again until it is stopped; `problem` says why it cannot be asked."""

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
        self.problem: str | None = LOADING
        """Why requests cannot be served now; None where they can."""
        self.num_crashes = 0
        """Lives that ended unasked, after they had been ready or while they loaded again."""

    @property
    def pid(self) -> int | None:
        """Process id of the present life."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Start, watch, restart; ends by `stop` alone, or by the failure of the first start.

        Raises:
            EngineError: If the server cannot be started the first time: its arguments or its
                environment are wrong, and trying again would not help.
        """
        backoff_seconds, was_ready = _FIRST_BACKOFF_SECONDS, False
        while True:
            ready_at, failure = await self._live()
            if ready_at is None and not was_ready:
                self.problem = failure
                raise EngineError(failure)
            was_ready = True
            self.num_crashes += 1
            if ready_at is not None and self._clock.now() - ready_at >= _SOUND_SECONDS:
                backoff_seconds = _FIRST_BACKOFF_SECONDS
            self.problem = f"{failure}; it is being restarted"
            logger.error(
                "vllm crashed failure=%r crashes=%d restart_in_seconds=%g last_lines=%s",
                failure,
                self.num_crashes,
                backoff_seconds,
                list(self._process.last_lines) if self._process else [],
            )
            await self._clock.sleep(backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, _MOST_BACKOFF_SECONDS)

    async def stop(self) -> None:
        """Stop the server, if it runs; `run` must have been cancelled."""
        self.problem = STOPPING
        if self._process is not None:
            await self._process.stop(grace_seconds=_GRACE_SECONDS)

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
        await self._on_ready()
        ready_at, self.problem = self._clock.now(), None
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
