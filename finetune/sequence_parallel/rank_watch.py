"""A job that ends as one: when a rank is lost the others stop, all with one message between them.

Each rank writes heartbeats into the job's store and reads the others', in threads of its own, so a
main thread that waits in a collective for ever is no hindrance. The first verdict in the store
counts, and whoever reads it leaves by `os._exit`; the rank that keeps the store leaves last. A store
that is gone or silent is lost with its keeper, and the lowest rank of each machine says so.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch.distributed as dist

from finetune.errors import SequenceParallelError
from finetune.sequence_parallel.distributed import launch_of
from finetune.sequence_parallel.process_state import (
    ProcessState,
    host_name,
    process_state,
    this_host,
)
from finetune.sequence_parallel.rank_roll import DONE, Place, RankRoll
from finetune.sequence_parallel.watch_store import Verdict, WatchStore

LOST_EXIT_CODE = 1
"""Of every rank that stops because another was lost, or failed."""

_BROKEN = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")
"""Words of the errors that a collective raises when its other end is gone."""

_LINGER_INTERVALS = 3
"""For which the keeper of the store lets the others read the verdict."""

_TELLING_SECONDS = 5.0
"""Longest that ranks stay for the one that failed to say why."""


class RankWatch:
    """The watch of one rank, as a context around all that it computes with others.

    Leaving it by an exception of this rank's own stops the others in silence, for the exception is
    told; of several ranks that fail only the first raises, the others end. An exception by which a
    collective tells of a lost rank waits until it is clear who was lost. Without a launcher, or
    with one process, there is nobody to watch.
    """

    def __init__(
        self,
        *,
        advice: str = "start the job again with the same command to go on from its checkpoint",
        patience_seconds: float = 20.0,
        interval_seconds: float = 1.0,
        host: str | None = None,
        environment: Mapping[str, str] = os.environ,
        end_process: Callable[[int], object] = os._exit,
    ) -> None:
        """Say how long to wait, and what the user shall do.

        Args:
            advice: End of the message.
            patience_seconds: Silence after which a rank is looked into. One on a machine where no
                other rank speaks for it is lost after twice as long.
            interval_seconds: Between heartbeats.
            host: What tells this machine from the job's others; None asks the kernel.
            environment: Where the launcher's words are.
            end_process: Ends this process with a code, whatever its main thread does.

        Raises:
            SequenceParallelError: If the launcher's words are not whole.
        """
        self._launch = launch_of(environment)
        self._is_alone = self._launch is None or self._launch.world_size == 1
        self._environment = environment
        self._advice = advice
        self._patience = patience_seconds
        self._interval = interval_seconds
        self._host = host or this_host()
        self._end_process = end_process
        self._proposal: Verdict | None = None
        self._is_leaving, self._has_left = threading.Event(), threading.Event()
        self._is_first_to_fail, self._is_ending = threading.Event(), threading.Event()
        self._is_cut = False

    def __enter__(self) -> Self:
        """Meet the others and begin to watch.

        Raises:
            SequenceParallelError: If they do not come.
        """
        if self._is_alone:
            return self
        assert self._launch is not None
        self._rank = self._launch.rank
        try:
            self._store = WatchStore(self._launch, self._environment)
            places = self._store.meet(self._rank, Place(self._host, host_name(), os.getpid()))
        except (dist.DistError, RuntimeError, OSError) as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise SequenceParallelError(
                f"rank {self._rank} of {self._launch.world_size} does not meet the others "
                f"({first}); check that all were started"
            ) from None
        now = self._answered = time.monotonic()
        self._roll = RankRoll(self._rank, places, patience_seconds=self._patience, now=now)
        self._process_ids = {rank: places[rank].process_id for rank in self._roll.neighbours}
        self._talker = threading.Thread(target=self._keep_talking, name="rank-watch", daemon=True)
        self._talker.start()
        threading.Thread(target=self._guard_store, name="rank-watch-guard", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave when the others may be left; see the class for errors."""
        if self._is_alone:
            return
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self._is_leaving.set()
            self._has_left.wait()  # or the process ends, should a rank be lost meanwhile
        elif _tells_of_another(error):
            # Whoever is lost is found within twice the patience, and this process ended.
            self._has_left.wait(2 * self._patience + 10 * self._interval)
        else:
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            self._proposal = Verdict(f"rank {self._rank} failed: {first}", failed_rank=self._rank)
            self._is_first_to_fail.wait(10 * self._interval)
            self._let_others_read()
        self._has_left.set()
        self._talker.join(2 * self._interval)

    def _keep_talking(self) -> None:
        """Beat, listen and judge, until this rank leaves or all stop."""
        count = 0
        while not self._is_cut and not self._has_left.is_set():
            count += 1
            try:
                if self._store.is_closed():
                    break
                self._talk(count)
            except (dist.DistError, RuntimeError):
                break
            if self._is_leaving.wait(self._interval):
                time.sleep(self._interval / 10)
        self._is_cut = not self._has_left.is_set()

    def _talk(self, count: int) -> None:
        # Looked up before the beats are read: see RankRoll.lost.
        states = self._neighbours_states()
        is_leaving = self._is_leaving.is_set()
        self._store.beat(self._rank, DONE if is_leaving else str(count))
        beats, verdict = self._store.read()
        now = time.monotonic()
        self._roll.notice_sleep(now=now)
        self._roll.hear(beats, now=now)
        self._answered = now
        if verdict is not None:
            self._obey(verdict)
            return
        if is_leaving and (self._store.keeper != self._rank or self._roll.others_are_done()):
            self._has_left.set()
            return
        for rank in self._roll.busy_neighbours(states, now=now):
            self._store.beat_for(rank, f"; {count} by rank {self._rank}")
        lost = self._roll.lost(states, now=now)
        if lost and self._proposal is None:
            speaker = self._roll.lowest_living(states, now=now)
            self._proposal = Verdict(f"{lost}; {self._advice}", speaker=speaker)
        if self._proposal is not None:
            self._store.propose(self._proposal)

    def _obey(self, verdict: Verdict) -> None:
        if verdict.failed_rank == self._rank:
            self._is_first_to_fail.set()
            return
        self._is_ending.set()  # whatever becomes of the store: why is known
        if verdict.speaker == self._rank:
            _say(verdict.message)
        self._let_others_read()
        self._let_tell(verdict.failed_rank)
        self._end()

    def _let_tell(self, failed_rank: int | None) -> None:
        """Stay until a neighbour that failed has said why: a launcher ends all when one has ended."""
        until = time.monotonic() + min(self._patience, _TELLING_SECONDS)
        while time.monotonic() < until and self._neighbours_states().get(
            -1 if failed_rank is None else failed_rank, "gone"
        ) in ("living", "unknown"):
            time.sleep(self._interval / 10)

    def _guard_store(self) -> None:
        """Stop when the store is gone, or so silent that the other thread hangs in it."""
        looked = time.monotonic()
        while not self._has_left.is_set():
            time.sleep(self._interval)
            now = time.monotonic()
            if now - looked > self._patience / 2:  # this process was suspended itself
                self._answered = now
            looked = now
            if self._is_cut or now - self._answered > self._patience:
                self._judge_keeper(now - self._answered)

    def _judge_keeper(self, silent_seconds: float) -> None:
        states = self._neighbours_states()
        keeper = self._store.keeper
        state = "unknown" if keeper is None else states.get(keeper, "unknown")
        is_lost = self._is_cut or state in ("gone", "stopped")
        knows_why = self._is_first_to_fail.is_set() or self._is_ending.is_set()
        if knows_why or self._has_left.is_set():
            return
        if not is_lost and silent_seconds <= 2 * self._patience:
            return
        if self._roll.speaks_here(states):
            who = "torchrun" if keeper is None else f"rank {keeper}"
            how = "was stopped" if state == "stopped" else "does not answer"
            how = "is gone" if self._is_cut or state == "gone" else how
            _say(
                f"{who}, which keeps the job's store, {how} (last heard {silent_seconds:.0f} s "
                f"ago); {self._advice}"
            )
            self._outlive_neighbours()
        self._end()

    def _outlive_neighbours(self) -> None:
        """Stay until they are gone: the next lowest would take itself for the lowest that lives."""
        until = time.monotonic() + self._patience
        while time.monotonic() < until and "living" in self._neighbours_states().values():
            time.sleep(self._interval / 10)

    def _let_others_read(self) -> None:
        """Tell that this rank has read the verdict; the store's keeper waits for the others'."""
        with suppress(dist.DistError, RuntimeError):
            if self._store.keeper != self._rank:
                self._store.acknowledge()
                return
            until = time.monotonic() + _LINGER_INTERVALS * self._interval
            while time.monotonic() < until and not self._store.all_acknowledged():
                time.sleep(self._interval / 10)

    def _end(self) -> None:
        # The main thread may hold the lock of a stream whose reader has gone: one second, no more.
        flushing = threading.Thread(target=sys.stdout.flush, daemon=True)
        flushing.start()
        flushing.join(1.0)
        self._end_process(LOST_EXIT_CODE)

    def _neighbours_states(self) -> dict[int, ProcessState]:
        return {rank: process_state(number) for rank, number in self._process_ids.items()}


def _tells_of_another(error: BaseException) -> bool:
    """Return whether it is what a collective raises when another rank is gone."""
    words = str(error).lower()
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(word in words for word in _BROKEN)
    )


def _say(message: str) -> None:
    with suppress(OSError):  # whatever the main thread does to the stream, or its reader did
        os.write(2, f"{message}\n".encode())
