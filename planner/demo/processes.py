"""Child processes of the demo: Motley's own commands, started, awaited, and stopped by their id."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType

from planner.errors import DemoError

_LISTENING = re.compile(r"listening url=(\S+)")
_POLL_SECONDS = 0.1
_STOP_SECONDS = 15.0

_ENVIRONMENT = {
    "PYTHONUNBUFFERED": "1",
    # One thread a process: threads that wait for each other crawl where the cores are shared.
    "OMP_NUM_THREADS": "1",
    # Everything is on loopback; a proxy of the machine must not come between.
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}


def motley_command(arguments: list[str]) -> list[str]:
    """Return the words that run this very Motley with `arguments`."""
    return [sys.executable, "-m", "motley", *arguments]


@contextmanager
def following(path: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Tell each line that a child appends to `path` meanwhile; the file need not exist yet."""
    is_over = threading.Event()

    def follow() -> None:
        num_told, was_over = 0, False
        while not was_over:
            was_over = is_over.wait(_POLL_SECONDS)
            lines = path.read_text().split("\n")[:-1] if path.exists() else []
            for line in lines[num_told:]:
                tell(line)
            num_told = len(lines)

    thread = threading.Thread(target=follow, name=f"following {path.name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def run_to_end(arguments: list[str], *, log: Path, timeout_seconds: float) -> None:
    """Run one Motley command to its end, its output in `log`.

    Raises:
        DemoError: If it fails or takes too long.
    """
    command = motley_command(arguments)
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | _ENVIRONMENT,
                timeout=timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DemoError(_failed(command, f"took over {timeout_seconds:.0f} s", log)) from None
    if done.returncode:
        raise DemoError(_failed(command, f"ended with exit code {done.returncode}", log))


class Server(AbstractContextManager["Server"]):
    """A Motley command that listens; leaving the context stops it."""

    def __init__(self, command: list[str], *, log: Path, folder: Path | None = None) -> None:
        """Start the command in `folder`, or in the working directory, its output in `log`."""
        self._command = command
        self._log = log
        with log.open("wb") as output:
            # Its own process group: Ctrl-C reaches the demo alone, which stops children in order.
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | _ENVIRONMENT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of the command."""
        return self._process.pid

    def wait(self, timeout_seconds: float) -> int:
        """Return the exit code of the command, once it has ended by itself.

        Raises:
            subprocess.TimeoutExpired: If it does not in time.
        """
        return self._process.wait(timeout_seconds)

    def wait_for_url(self, timeout_seconds: float) -> str:
        """Return the address the command says it listens on.

        Raises:
            DemoError: If it ends first or says nothing in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            found = _LISTENING.search(self._log.read_text(errors="replace"))
            if found:
                return found[1]
            if self._process.poll() is not None:
                code = self._process.returncode
                raise DemoError(_failed(self._command, f"ended with exit code {code}", self._log))
            time.sleep(_POLL_SECONDS)
        raise DemoError(
            _failed(self._command, f"did not listen within {timeout_seconds:.0f} s", self._log)
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ask the process to end, and end it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()


def _failed(command: list[str], what: str, log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "it printed nothing"
    words = " ".join(command[len(motley_command([])) :])
    return f"`motley {words}` {what}: {last} (whole output in {log})"
