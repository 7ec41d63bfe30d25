"""The process that keeps the workers alive: it starts them, replaces those that die, ends them.

It answers no request and runs no event loop, so that a fork copies nothing that moves. SIGTERM and
SIGINT end every worker in order, a second one at once; SIGHUP goes on to every worker. A worker that
dies is replaced, at first at once, then after ever longer pauses. Workers hold one end of a pipe
whose other end only the supervisor has: when it is killed they see the end of it and stop in order.
"""

import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from router.errors import StartError
from router.workers.worker import Worker

logger = logging.getLogger(__name__)

_FORWARDED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_WATCHED = _FORWARDED | {signal.SIGCHLD}
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A worker that lived this long died by an accident of its own: the next one starts at once."""


@dataclass(frozen=True, slots=True)
class Ties:
    """What a worker has of its supervisor."""

    life: int
    """Descriptor that becomes readable when the supervisor is gone."""
    ready: int
    """Descriptor to write one byte to when requests are answered."""


RunWorker = Callable[[Worker, Ties], None]
"""Serves until it is told to stop; its exceptions end the worker."""


@dataclass(slots=True)
class _Seat:
    """One worker's place, and who has it."""

    pid: int = 0
    """0: nobody."""
    started_at: float = 0.0
    starts_at: float = 0.0
    pause_seconds: float = 0.0


class Supervisor:
    """Keeps `num_workers` processes running; `run` returns when all have ended."""

    def __init__(
        self,
        num_workers: int,
        folder: Path,
        run_worker: RunWorker,
        *,
        announce: Callable[[], None],
    ) -> None:
        """Prepare.

        Args:
            num_workers: At least 2.
            folder: Private to the workers, for their sockets.
            run_worker: What each of them does.
            announce: Called once, when all of them answer requests.
        """
        self._folder = folder
        self._run_worker = run_worker
        self._announce = announce
        self._seats = [_Seat() for _ in range(num_workers)]
        self._num_to_come = num_workers
        self._is_stopping = False
        self._failed_code = 0

    def run(self) -> None:
        """Start the workers and keep them until a signal says to stop.

        Raises:
            StartError: If a worker could not start.
        """
        self._life = os.pipe()
        self._ready = os.pipe()
        self._signals = os.pipe()
        os.set_blocking(self._signals[1], False)
        kept = {number: signal.signal(number, _note) for number in _WATCHED}
        waker = signal.set_wakeup_fd(self._signals[1])
        try:
            self._start_due()
            while self._is_wanted():
                self._wait()
                self._start_due()
        finally:
            self._tell(signal.SIGKILL)
            signal.set_wakeup_fd(waker)
            for number, handler in kept.items():
                signal.signal(number, handler)
            for descriptor in (*self._life, *self._ready, *self._signals):
                os.close(descriptor)
        if self._failed_code:
            raise StartError("a worker could not start; see the line above")

    def _is_wanted(self) -> bool:
        return not self._is_stopping or any(seat.pid for seat in self._seats)

    def _wait(self) -> None:
        """Handle what comes next: a signal, a worker that is ready, or the time of a start."""
        starts = [seat.starts_at for seat in self._seats if not seat.pid]
        is_due = bool(starts) and not self._is_stopping
        seconds = max(0.0, min(starts) - time.monotonic()) if is_due else None
        found, _, _ = select.select([self._signals[0], self._ready[0]], [], [], seconds)
        if self._ready[0] in found:
            self._note_ready(len(os.read(self._ready[0], 64)))
        if self._signals[0] in found:
            for number in os.read(self._signals[0], 64):
                self._handle(signal.Signals(number))

    def _note_ready(self, num_workers: int) -> None:
        before, self._num_to_come = self._num_to_come, self._num_to_come - num_workers
        if before > 0 >= self._num_to_come:
            logger.info("workers started num_workers=%d", len(self._seats))
            self._announce()

    def _handle(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
            return
        self._is_stopping = self._is_stopping or number != signal.SIGHUP
        self._tell(signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)

    def _tell(self, number: signal.Signals) -> None:
        for seat in self._seats:
            if seat.pid:
                os.kill(seat.pid, number)

    def _reap(self) -> None:
        for number, seat in enumerate(self._seats):
            if not seat.pid:
                continue
            pid, status = os.waitpid(seat.pid, os.WNOHANG)
            if pid:
                self._bury(number, seat, os.waitstatus_to_exitcode(status))

    def _bury(self, number: int, seat: _Seat, code: int) -> None:
        pid, seat.pid = seat.pid, 0
        if self._is_stopping:
            return
        if self._num_to_come > 0 and code == StartError.exit_code:
            self._failed_code = code
            self._is_stopping = True
            self._tell(signal.SIGTERM)
            return
        lived_seconds = time.monotonic() - seat.started_at
        if lived_seconds >= STEADY_SECONDS:
            seat.pause_seconds = 0.0
        seat.starts_at = time.monotonic() + seat.pause_seconds
        logger.error(
            "worker died, another one starts worker=%d pid=%d code=%d in_seconds=%.1f",
            number,
            pid,
            code,
            seat.pause_seconds,
        )
        longer = max(FIRST_PAUSE_SECONDS, 2 * seat.pause_seconds)
        seat.pause_seconds = min(LONGEST_PAUSE_SECONDS, longer)

    def _start_due(self) -> None:
        now = time.monotonic()
        for number, seat in enumerate(self._seats):
            if not seat.pid and not self._is_stopping and seat.starts_at <= now:
                seat.started_at = now
                seat.pid = self._fork(number)

    def _fork(self, number: int) -> int:
        """Return the new worker's process id; in the worker this does not return."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            return pid
        code = 1
        try:
            code = self._be_worker(number)
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _be_worker(self, number: int) -> int:
        # Ctrl-C reaches a whole group: the supervisor alone passes it on, once.
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for each in _WATCHED:
            signal.signal(each, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        for descriptor in (self._life[1], self._ready[0], *self._signals):
            os.close(descriptor)
        ties = Ties(life=self._life[0], ready=self._ready[1])
        try:
            self._run_worker(Worker(number, len(self._seats), self._folder), ties)
        except Exception as error:
            exit_code = getattr(error, "exit_code", None)
            if exit_code is None:
                logger.critical("worker failed worker=%d", number, exc_info=error)
                return 1
            logger.error("worker cannot start worker=%d problem=%s", number, error)
            return int(exit_code)
        return 0


def _note(number: int, frame: FrameType | None) -> None:
    """Let the signal interrupt a wait; its number comes through the pipe."""
