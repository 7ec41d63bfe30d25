"""One life of vLLM's server: started, its log read, stopped by its own process id."""

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import signal
from collections import deque
from collections.abc import Mapping, Sequence

logger = logging.getLogger(__name__)

LAST_LINES = 20
"""Lines of its log that are kept to explain a crash."""

_LONGEST_LINE_BYTES = 2000
_POLL_SECONDS = 0.1
_ERROR = re.compile(r"\b\w*(Error|Exception)\b: |\berror: ")
_HINT = "See root cause above"
"""What stands in the last error of several, which names no cause."""


_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    """Ask the system, in the child, to end it when this process is killed and cannot any more."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


class VllmProcess:
    """A running child and the last lines it wrote. Made by `start`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.last_lines: deque[str] = deque(maxlen=LAST_LINES)
        """End of its log."""
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, words: Sequence[str], variables: Mapping[str, str]) -> "VllmProcess":
        """Start the words with these variables, in a session of its own.

        Ctrl-C then reaches this process alone, which stops the child in order.

        Raises:
            OSError: If the program cannot be run.
        """
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(variables),
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Return its exit code once it has ended and its log is read.

        asyncio's own `wait` also waits for the pipe, which a child of the server may hold open.
        """
        while (code := self.exit_code) is None:  # noqa: ASYNC110 - no event tells of the exit alone
            await asyncio.sleep(_POLL_SECONDS)
        await asyncio.wait({self._reading}, timeout=_POLL_SECONDS)
        return code

    async def stop(self, *, grace_seconds: float) -> None:
        """Ask it to end, wait, then end it and whatever is left of its session."""
        if self.exit_code is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.wait(), grace_seconds)
            except TimeoutError:
                logger.warning(
                    "vllm did not end in time pid=%d seconds=%g", self.pid, grace_seconds
                )
        # Engine processes of a server that crashed or was slow would keep the device's memory.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.wait()
        self._reading.cancel()

    def cause(self) -> str:
        """Return the line of its log that most likely says why it ended."""
        lines = [line for line in self.last_lines if line.strip()]
        errors = [line for line in lines if _ERROR.search(line) and _HINT not in line]
        line = (errors or lines or ["it wrote nothing"])[-1]
        return " ".join(line.split())[-300:]

    async def _read(self) -> None:
        assert self._process.stdout is not None, "a pipe was asked for"
        rest = b""
        while chunk := await self._process.stdout.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-_LONGEST_LINE_BYTES:]
            for line in lines:
                self._take(line)
        if rest:
            self._take(rest)

    def _take(self, line: bytes) -> None:
        text = line[-_LONGEST_LINE_BYTES:].decode(errors="replace").rstrip()
        self.last_lines.append(text)
        logger.debug("vllm: %s", text)
