"""A Flower daemon as a child process: started, its log read, stopped by its own process id."""

import contextlib
import ctypes
import itertools
import logging
import os
import re
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from finetune.errors import DeploymentError

logger = logging.getLogger(__name__)

STOP_SECONDS = 10.0
"""How long a daemon may take to end when asked to."""

_LAST_LINES = 30
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_LEVEL = re.compile(r"^[A-Z]+\s*:\s*")


def _end_with_parent() -> None:
    """Ask the system, in the child, to end it when this process is killed and cannot any more."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))


class Daemon(AbstractContextManager["Daemon"]):
    """A running child in a process group of its own; leaving the context ends it.

    Ctrl-C then reaches this process alone, which stops the child in order. To be started from the
    main thread: the child ends with the thread that started it.
    """

    def __init__(
        self,
        name: str,
        words: Sequence[str],
        variables: Mapping[str, str],
        *,
        watch: Callable[[str], None] | None = None,
    ) -> None:
        """Start the words.

        Args:
            name: What log lines call it, such as `SuperLink`.
            words: Program and arguments.
            variables: Its whole environment.
            watch: Called with each line that it logs, in another thread.

        Raises:
            DeploymentError: If the program cannot be run.
        """
        self._name = name
        self._watch = watch
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(variables),
                start_new_session=True,
                preexec_fn=_end_with_parent,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise DeploymentError(
                f"{name} cannot be started ({words[0]}: {error.strerror}); "
                "install it with: pip install 'motley[finetune]'"
            ) from None
        logger.info("%s started pid=%d", name, self.pid)
        self._reader = threading.Thread(target=self._read, name=f"log of {name}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    def check(self) -> None:
        """Check that it still runs.

        Raises:
            DeploymentError: If it ended by itself; the message has the end of its log.
        """
        if self.has_left():
            raise DeploymentError(f"{self._name} ended before its time; start again")

    def has_left(self) -> bool:
        """Whether it ended by itself and in order, with exit code 0.

        Raises:
            DeploymentError: If it ended otherwise; the message has the end of its log.
        """
        code = self._process.poll()
        if code is None or code == 0:
            return code == 0
        self._reader.join(1.0)
        if code < 0:
            raise DeploymentError(f"{self._name} was killed by signal {-code}; start again")
        raise DeploymentError(f"{self._name} ended with exit code {code}: {self._cause()}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask it to end, wait, then end it and whatever is left of its group."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("%s did not end in time pid=%d", self._name, self.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(1.0)
        logger.info("%s stopped pid=%d", self._name, self.pid)

    def _cause(self) -> str:
        """Return what its log says about its end: Flower's last exit message, or the last line."""
        lines = [line for line in self._lines if line]
        starts = [number for number, line in enumerate(lines) if "Exit Code:" in line]
        told = lines[starts[-1] + 1 :] if starts else lines[-1:]
        told = list(itertools.takewhile(lambda line: "https://flower.ai" not in line, told))
        return " ".join(told)[:300].rstrip(". ") or "it wrote nothing"

    def _read(self) -> None:
        assert self._process.stdout is not None, "a pipe was asked for"
        for line in self._process.stdout:
            text = _ESCAPES.sub("", line).strip()
            self._lines.append(_LEVEL.sub("", text))
            logger.debug("%s: %s", self._name, text)
            if self._watch is not None:
                self._watch(text)
        self._process.stdout.close()
