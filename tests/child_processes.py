"""Processes of a test that the test itself kills, watches and ends."""

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


class Child:
    """A process with its output in a file, ended by its own id."""

    def __init__(self, stack: ExitStack, words: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                words,
                cwd=REPOSITORY,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            )
        stack.callback(self._end)

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    def wait_for(self, pattern: str, *, until: float) -> re.Match[str]:
        """Return the first match in its output, once there is one."""
        while time.monotonic() < until:
            if found := re.search(pattern, self.output):
                return found
            assert self._process.poll() is None, self.output
            time.sleep(0.1)
        raise AssertionError(f"no {pattern!r} in time:\n{self.output}")

    def wait(self, *, until: float) -> int:
        """Return its exit code, once it has ended by itself."""
        try:
            return self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end in time:\n{self.output}") from None

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def _end(self) -> None:
        self._process.terminate()
        self._process.send_signal(signal.SIGCONT)  # a stopped one ends only then
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """Return a loopback port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
