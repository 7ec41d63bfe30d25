"""The two C programs of the router's benchmark: compiled once a run, started, and read."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent / "router_load"
COMPILER = "gcc"
HIGHEST_PRIORITY = -20


class ProgramError(Exception):
    """A program that cannot be compiled or run."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the load generator found; its header says what each mode does."""

    done: int
    """Answers whose every byte was right."""
    num_errors: int
    """All others: status, bytes, broken connections, answers that never came."""
    seconds: float
    p50_seconds: float
    p99_seconds: float
    max_seconds: float
    most_open: int
    """Streams open at once."""


def compile_programs(folder: Path) -> None:
    """Put `mock` and `load` into `folder`.

    Raises:
        ProgramError: If there is no compiler or it fails.
    """
    if shutil.which(COMPILER) is None:
        raise ProgramError(f"no {COMPILER}; install it (Debian: apt-get install gcc libc6-dev)")
    for name in ("mock", "load"):
        words = [COMPILER, "-O2", "-o", str(folder / name), str(SOURCES / f"{name}.c"), "-lm"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise ProgramError(f"{name}.c does not compile: {done.stderr.strip()[:500]}")


@dataclass(frozen=True, slots=True)
class Mock:
    """Four mock replicas in one process of their own."""

    ports: list[int]
    pid: int


@contextmanager
def mock_replicas(folder: Path, *, num_chunks: int, interval_seconds: float) -> Iterator[Mock]:
    """Run them."""
    words = [str(folder / "mock"), "4", str(num_chunks), str(round(interval_seconds * 1e3))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()[1:]
            yield Mock([int(word) for word in words], process.pid)
        finally:
            process.kill()


@contextmanager
def raised_priority(*pids: int) -> Iterator[bool]:
    """Let this process, its children to come and `pids` go before all others, where that is allowed.

    Latencies of a machine that has other work too are else those of its scheduler. Yields whether
    it was allowed.
    """
    everyone = [0, *pids]
    before = [os.getpriority(os.PRIO_PROCESS, pid) for pid in everyone]
    try:
        for pid in everyone:
            os.setpriority(os.PRIO_PROCESS, pid, HIGHEST_PRIORITY)
        is_raised = True
    except PermissionError:
        is_raised = False
    try:
        yield is_raised
    finally:
        for pid, priority in zip(everyone, before, strict=True):
            if is_raised:
                os.setpriority(os.PRIO_PROCESS, pid, priority)


def run_load(
    folder: Path,
    mode: str,
    port: int,
    request: Path,
    *,
    connections: int,
    seconds: float,
    rate: float = 0,
    is_loose: bool = False,
    when_all_open: Callable[[], None] = lambda: None,
) -> Load:
    """Run the load generator to its end.

    Raises:
        ProgramError: If it fails.
    """
    words = [mode, str(port), str(connections), str(seconds), str(rate), str(request)]
    environment = os.environ | ({"LOOSE": "1"} if is_loose else {})
    last = ""
    with subprocess.Popen(
        [str(folder / "load"), *words], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line.strip()
            if last == "all_open":
                when_all_open()
    if process.returncode or not last.startswith("{"):
        raise ProgramError(f"load {' '.join(words)} ended with {process.returncode}")
    found = json.loads(last)
    errors = ("bad_status", "bad_bytes", "broken", "unanswered")
    kept = ("done", "seconds", "p50_seconds", "p99_seconds", "max_seconds", "most_open")
    return Load(
        num_errors=sum(found[name] for name in errors), **{name: found[name] for name in kept}
    )
