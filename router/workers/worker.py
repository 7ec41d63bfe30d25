"""Which of several processes this is."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Worker:
    """One process of a router."""

    number: int
    """From 0."""
    num_workers: int
    folder: Path | None
    """Where the workers' sockets are, one named after each number; None: there is one worker."""

    def socket_path(self, number: int) -> Path:
        """Return where the worker of that number answers the others."""
        assert self.folder is not None, "one worker alone has no others"
        return self.folder / f"{number}.sock"

    @property
    def commands_path(self) -> Path | None:
        """Where commands on the fleet are kept for the other workers; None: there are none."""
        return None if self.folder is None else self.folder / "commands.json"

    def have_all_reload(self) -> None:
        """Have every worker read the router's file, this one too; alone there is nothing to do."""
        if self.folder is not None:
            os.kill(os.getppid(), signal.SIGHUP)  # the supervisor, which passes it on


ALONE = Worker(number=0, num_workers=1, folder=None)
"""The only process."""
