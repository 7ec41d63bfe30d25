"""A job killed before each of its durable writes, each time in a folder of its own.

    python -m kill_points JOB.yaml FOLDER

Run N, in FOLDER/N, kills itself just before it would do its N-th durable write: make, create or
rename something in the run folder, or append to a file of it, of which half a line is written then.
What it did between two of them leaves nothing on the disk, so these are all the states that a kill
can leave. The first run that ends by itself is the last. Each begins as a fork of one process that
has imported all there is, and has computed nothing.
"""

import builtins
import io
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from watched_job import Watcher

from finetune.config import JobConfig
from finetune.job import run_job
from planner.documents import read_document


class KillPoints:
    """Counts durable writes below a folder and kills the process before one of them."""

    def __init__(self, folder: Path, kill_before: int) -> None:
        self.folder = str(folder)
        self.left = kill_before

    def wrap(self) -> None:
        """Put this before every function by which Python changes a folder or opens a file."""
        os.mkdir = self._counted(os.mkdir)
        os.rename = self._counted(os.rename)
        os.replace = self._counted(os.replace)
        os.open = self._counted(os.open, is_write=lambda *rest: bool(rest[0] & os.O_CREAT))
        io.open = builtins.open = self._opened(io.open)

    def _counted(
        self, real: Callable[..., Any], *, is_write: Callable[..., bool] = lambda *rest: True
    ) -> Callable[..., Any]:
        def counted(path: Any, *rest: Any, **named: Any) -> Any:
            if self._is_inside(path) and is_write(*rest):
                self._count()
            return real(path, *rest, **named)

        return counted

    def _opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            file = real(path, mode, *rest, **named)
            if mode.startswith("a") and self._is_inside(path):
                file.write = self._torn(file, file.write)
            return file

        return opened

    def _torn(self, file: Any, write: Callable[[str], int]) -> Callable[[str], int]:
        def torn(text: str) -> int:
            self._count()
            half = len(text) // 2
            write(text[:half])
            file.flush()
            self._count()
            write(text[half:])
            return len(text)

        return torn

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def is_killed(job: JobConfig, folder: Path, kill_before: int) -> bool:
    """Run the job in a process of its own; return whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        try:
            KillPoints(folder, kill_before).wrap()
            run_job(job, folder=folder, observer=Watcher())
        except BaseException:  # noqa: BLE001 - a fork must not go on as the process it came from
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"the job of {folder} failed"
    return False


def main(job_file: Path, folder: Path) -> None:
    """Kill the job before its first durable write, its second, and so on until it ends."""
    job = read_document(job_file, JobConfig)
    for number in count(1):
        if not is_killed(job, folder / str(number), number):
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
