"""Ends a process of a client that was stopped, so that the others do not wait for it."""

import threading
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from finetune.sequence_parallel.process_state import process_state

PATIENCE_SECONDS = 20.0
"""How long another process may be stopped before it is given up."""


class MemberWatch:
    """Watches a client's other processes from a thread, whatever the main one waits for.

    One that ends closes its sockets, and gloo tells who waits for it; one that is stopped keeps
    them open. It is killed, which tells the others. NCCL tells nobody before its own time is up.

    Attributes:
        stopped: Rank of the process that was killed for it; None where none was.
    """

    def __init__(
        self,
        members: Sequence[BaseProcess],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        looks: int = 20,
    ) -> None:
        """Begin to watch.

        Args:
            members: Ranks 1 and on of the client.
            patience_seconds: Longest that one may be stopped.
            looks: At each process in that time. They are counted, not the clock: a client that was
                suspended with all its processes has not looked meanwhile.
        """
        self.stopped: int | None = None
        self._members = tuple(members)
        self._interval, self._looks = patience_seconds / looks, looks
        self._seen = [0] * len(self._members)
        self._has_ended = threading.Event()
        thread = threading.Thread(target=self._watch, name="client-member-watch", daemon=True)
        thread.start()

    def end(self) -> None:
        """Watch no longer."""
        self._has_ended.set()

    def _watch(self) -> None:
        while self.stopped is None and not self._has_ended.wait(self._interval):
            self._look()

    def _look(self) -> None:
        for place, process in enumerate(self._members):
            is_stopped = process.pid is not None and process_state(process.pid) == "stopped"
            self._seen[place] = self._seen[place] + 1 if is_stopped else 0
            if self._seen[place] > self._looks:
                self.stopped = place + 1  # before whoever waits for it hears of its end
                process.kill()
                return
