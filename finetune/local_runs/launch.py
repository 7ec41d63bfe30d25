"""`--processes N`: this command N times on this machine, one process group; torch is not imported.

All end when one fails or the starting process ends, however that is: each holds the reading end of
a pipe whose writing end is the starter's alone.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import IO

from finetune.errors import LocalRunError, ProcessEndedError
from finetune.sequence_parallel.process_state import process_state

_PIPE_VARIABLE = "MOTLEY_STARTED_BY"
_REPORT_SECONDS = 30.0
"""After a first process failed, rank 0 gets so long to say why and end by itself: `RankWatch` has
it do so, but for a process that fails before it has met the others."""
_END_SECONDS = 5.0
"""After being asked to end, before a process is killed."""
_LOOK_SECONDS = 0.05
_INTERRUPTED = 130
_ERROR = "motley: error: "


def launch(arguments: Sequence[str], *, num_processes: int) -> None:
    """Run `motley` with these arguments as ranks 0 to N - 1 and wait for all.

    Rank 0 has this process's terminal; what others would print is kept for the message of one that
    fails.

    Raises:
        FinetuneError: If one failed and rank 0 has not said why.
        SystemExit: With rank 0's status, if it has.
    """
    Group(arguments, num_processes=num_processes).run()


class Group:
    """The processes of one run on this machine."""

    def __init__(self, arguments: Sequence[str], *, num_processes: int) -> None:
        """Start nothing yet."""
        self._arguments, self._num_processes = arguments, num_processes
        self._processes: list[subprocess.Popen[bytes]] = []
        self._words: list[IO[bytes]] = []

    def run(self) -> None:
        """Start all, wait for all; see `launch`."""
        reading, writing = os.pipe()
        try:
            before = signal.signal(signal.SIGTERM, _interrupt)
            try:
                self._start(reading)
                failed = self._first_failure()
            except KeyboardInterrupt:
                self._end(signal.SIGINT)
                if self._processes and self._processes[0].returncode == _INTERRUPTED:
                    raise SystemExit(_INTERRUPTED) from None  # rank 0 has said so
                raise
            finally:
                signal.signal(signal.SIGTERM, before)
                self._end(signal.SIGTERM)
            if failed is not None:
                self._report(failed)
        finally:
            os.close(reading)
            os.close(writing)
            for words in self._words:
                words.close()

    def _start(self, pipe: int) -> None:
        command = [sys.executable, "-m", "motley", *self._arguments]
        shared = group_environment(os.environ, num_processes=self._num_processes)
        shared |= {"MASTER_PORT": str(_free_port()), _PIPE_VARIABLE: str(pipe)}
        for rank in range(self._num_processes):
            words = None if rank == 0 else tempfile.TemporaryFile()  # noqa: SIM115 - closed in run
            if words is not None:
                self._words.append(words)
            process = subprocess.Popen(
                command,
                env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
                stdout=None if words is None else words,
                stderr=words,
                pass_fds=[pipe],
                # A terminal's Ctrl-C is for this process, which passes it on once.
                process_group=0,
            )
            self._processes.append(process)

    def _first_failure(self) -> int | None:
        """Return the rank that failed first, None where all ended well."""
        while True:
            statuses = [process.poll() for process in self._processes]
            failed = [rank for rank, status in enumerate(statuses) if status]
            if failed:
                self._wait(self._processes, _REPORT_SECONDS)
                return failed[0]
            if None not in statuses:
                return None
            time.sleep(_LOOK_SECONDS)

    def _report(self, failed: int) -> None:
        """Say why the run ended, unless rank 0 has: of all ranks one alone tells the reason."""
        for process, words in zip(self._processes[1:], self._words, strict=True):
            if process.returncode and (reason := reason_of(words)):
                raise (LocalRunError if process.returncode == 2 else ProcessEndedError)(reason)
        if self._processes[0].returncode > 0:
            raise SystemExit(self._processes[0].returncode)
        status = self._processes[failed].returncode
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended: {status}"
        raise ProcessEndedError(
            f"process {failed} of {self._num_processes} {how}; run the same command again to go "
            "on from the checkpoint"
        )

    def _end(self, with_signal: signal.Signals) -> None:
        """End what still runs: ask, wait, kill."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(with_signal)
        self._wait(self._processes, _END_SECONDS)
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    @staticmethod
    def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
        """Wait for those that can end by themselves, which a stopped one cannot."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(
            process.poll() is None and process_state(process.pid) != "stopped"
            for process in processes
        ):
            time.sleep(_LOOK_SECONDS)


def group_environment(given: Mapping[str, str], *, num_processes: int) -> dict[str, str]:
    """Return what all of so many processes of this machine are told; what is given counts more.

    They meet on loopback: gloo would ask the name service for this host's address.
    """
    threads = max(1, _num_cores() // num_processes)
    wished = {"OMP_NUM_THREADS": str(threads), "GLOO_SOCKET_IFNAME": "lo"} | dict(given)
    return wished | {
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "127.0.0.1",
    }


def end_with_starter() -> None:
    """End this process when the one that started it has ended, killed even; else change nothing."""
    pipe = os.environ.get(_PIPE_VARIABLE)
    if pipe is None:
        return

    def wait() -> None:
        os.read(int(pipe), 1)  # returns when nobody holds the writing end any more
        os._exit(1)

    threading.Thread(target=wait, name="end-with-starter", daemon=True).start()


def is_launched() -> bool:
    """Return whether a launcher has given this process a rank."""
    return bool(os.environ.get("RANK"))


def reason_of(words: IO[bytes]) -> str | None:
    """Return the message, or the end of the traceback, with which a process ended.

    A traceback goes to standard error as it is: nobody has seen it yet.
    """
    words.seek(0)
    lines = words.read().decode(errors="replace").strip().splitlines()
    told = [line.removeprefix(_ERROR) for line in lines if line.startswith((_ERROR, "rank "))]
    if not told and any(line.startswith("Traceback") for line in lines):
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        told = [f"a process failed: {lines[-1]}; report it with its traceback"]
    return told[-1] if told else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
