"""A file that several processes append whole lines to, set aside for a new one when it is full.

Each line is one unbuffered write to a file opened for appending, which the kernel keeps whole. The
process that finds the file full renames it under a lock: `PATH.1` becomes `PATH.2`, and so on, then
`PATH` becomes `PATH.1` and is begun anew. The others find, before their next line, that the file
they hold is not the one under its name any more, and open that: nothing is lost and nothing is
written twice. A file grows past its limit by at most one line of each process.

A line that finds no room on the disk is lost, whole: what was written of it is taken back, so that
the next one that finds room is a line again. Losses are counted and told once a minute.
"""

import errno
import fcntl
import logging
import math
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from router.errors import StartError

logger = logging.getLogger(__name__)

LOCK_SUFFIX = ".lock"
_COMPLAIN_SECONDS = 60.0
_LOOK_SECONDS = 1.0
"""How often it is looked whether the file is still there, where it is never full."""
_LOST, _NOT_ROTATED = "line lost", "file not rotated"


class LineFile:
    """Appends lines, and rotates.

    Args:
        path: The file; None drops every line.
        setting: What the configuration calls it, for messages.
        rotate_bytes: Size from which on a new file is begun; None: never.
        keep: Older files that stay.
        mode: Permissions of a new file.
        monotonic: Seconds, for how often losses are told.

    Raises:
        StartError: If the file cannot be opened for appending.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        setting: str,
        rotate_bytes: int | None = None,
        keep: int = 9,
        mode: int = 0o644,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._setting = setting
        self.rotate_bytes = rotate_bytes
        """May be changed while the file is open."""
        self._keep = keep
        self._mode = mode
        self._monotonic = monotonic
        self._descriptor: int | None = None
        self._inode = 0
        self._told_at = {_LOST: float("-inf"), _NOT_ROTATED: float("-inf")}
        self._is_losing = False
        self._look_at = float("-inf")
        self.num_lost_lines = 0
        if path is None:
            return
        try:
            self._open(path)
        except OSError as error:
            message = f"{setting}: {path} cannot be opened ({error.strerror}); check the folder"
            raise StartError(message) from None

    def write(self, line: str) -> None:
        """Append `line`; a line that cannot be written is counted and reported, not raised."""
        if self._descriptor is None or self._path is None:
            return
        try:
            if self.rotate_bytes is not None or self._monotonic() >= self._look_at:
                self._look_at = self._monotonic() + _LOOK_SECONDS
                self._follow(self._path, self.rotate_bytes or math.inf)
            append_whole(self._descriptor, self._path, line.encode() + b"\n")
        except OSError as error:
            self.num_lost_lines += 1
            self._is_losing = True
            self._tell(_LOST, str(error.strerror))
            return
        if self._is_losing:
            self._is_losing = False
            self._told_at[_LOST] = float("-inf")
            logger.info(
                "%s lines written again path=%s num_lost_lines=%d",
                self._name,
                self._path,
                self.num_lost_lines,
            )

    def close(self) -> None:
        """Close the file; lines written afterwards are not kept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def _name(self) -> str:
        return self._setting.rpartition(".")[2].removesuffix("_log")

    def _tell(self, what: str, problem: str) -> None:
        """Warn, once a minute: a full disk meets every line."""
        now = self._monotonic()
        if now - self._told_at[what] < _COMPLAIN_SECONDS:
            return
        self._told_at[what] = now
        logger.warning(
            "%s %s path=%s num_lost_lines=%d problem=%s",
            self._name,
            what,
            self._path,
            self.num_lost_lines,
            problem,
        )

    def _open(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, self._mode)
        self.close()
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino

    def _follow(self, path: Path, rotate_bytes: float) -> None:
        """Hold the file under the name, a new one where that is full.

        Raises:
            OSError: If there is none under the name and none can be made.
        """
        try:
            if self._is_current(path, rotate_bytes):
                return
            with Path(f"{path}{LOCK_SUFFIX}").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self._is_current(path, rotate_bytes):
                    self._open(path)
                if os.fstat(self._descriptor or 0).st_size >= rotate_bytes:
                    _rename(path, self._keep)
                    self._open(path)
                    logger.info("%s rotated path=%s", self._setting, path)
        except OSError as error:
            if not path.exists():
                raise
            self._tell(_NOT_ROTATED, str(error.strerror))

    def _is_current(self, path: Path, rotate_bytes: float) -> bool:
        try:
            found = os.stat(path)  # noqa: PTH116  (a third of the time, once a line)
        except FileNotFoundError:
            return False
        return found.st_ino == self._inode and found.st_size < rotate_bytes


def append_whole(descriptor: int, path: Path, data: bytes) -> None:
    """Append `data` to the file at `path`, open for appending.

    Raises:
        OSError: If it cannot be. Nothing of it stands there then, unless another process has written
            to the file at the same moment.
    """
    num_bytes = os.write(descriptor, data)
    if num_bytes != len(data):
        _take_back(descriptor, path, data[:num_bytes])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _take_back(descriptor: int, path: Path, data: bytes) -> None:
    """Cut `data` off the end of the file, if it is what stands there."""
    here = os.fstat(descriptor)
    if not stat.S_ISREG(here.st_mode):
        return
    with path.open("rb") as file:
        if os.path.samestat(os.fstat(file.fileno()), here):
            # Not by the descriptor's position: processes that come of a fork share it.
            end = here.st_size - len(data)
            if os.pread(file.fileno(), len(data) + 1, end) == data:
                os.ftruncate(descriptor, end)


def rotated_files(path: Path) -> tuple[Path, ...]:
    """Return the file and those set aside before it, oldest first."""
    found = [path] if path.exists() else []
    number = 1
    while (older := Path(f"{path}.{number}")).exists():
        found.append(older)
        number += 1
    return tuple(reversed(found))


def _rename(path: Path, keep: int) -> None:
    Path(f"{path}.{keep}").unlink(missing_ok=True)
    for number in range(keep - 1, 0, -1):
        older = Path(f"{path}.{number}")
        if older.exists():
            older.rename(f"{path}.{number + 1}")
    path.rename(f"{path}.1")
