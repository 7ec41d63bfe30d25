"""A file that several processes append whole lines to, set aside for a new one when it is full.

Each line is one unbuffered write to a file opened for appending, which the kernel keeps whole. The
process that finds the file full renames it under a lock: `PATH.1` becomes `PATH.2`, and so on, then
`PATH` becomes `PATH.1` and is begun anew. The others find, before their next line, that the file
they hold is not the one under its name any more, and open that: nothing is lost and nothing is
written twice. A file grows past its limit by at most one line of each process.
"""

import fcntl
import logging
import os
from pathlib import Path

from router.errors import StartError

logger = logging.getLogger(__name__)

LOCK_SUFFIX = ".lock"


class LineFile:
    """Appends lines, and rotates.

    Args:
        path: The file; None drops every line.
        setting: What the configuration calls it, for messages.
        rotate_bytes: Size from which on a new file is begun; None: never.
        keep: Older files that stay.
        mode: Permissions of a new file.

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
    ) -> None:
        self._path = path
        self._setting = setting
        self._rotate_bytes = rotate_bytes
        self._keep = keep
        self._mode = mode
        self._descriptor: int | None = None
        self._inode = 0
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
        if self._rotate_bytes is not None:
            self._follow(self._path, self._rotate_bytes)
        data = line.encode() + b"\n"
        try:
            is_whole = os.write(self._descriptor, data) == len(data)
        except OSError:
            is_whole = False
        if not is_whole:
            self.num_lost_lines += 1
            logger.warning(
                "%s line lost path=%s num_lost_lines=%d",
                self._setting.rpartition(".")[2].removesuffix("_log"),
                self._path,
                self.num_lost_lines,
            )

    def close(self) -> None:
        """Close the file; lines written afterwards are not kept."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, self._mode)
        self.close()
        self._descriptor = descriptor
        self._inode = os.fstat(descriptor).st_ino

    def _follow(self, path: Path, rotate_bytes: int) -> None:
        """Hold the file under the name, a new one where that is full."""
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
            logger.warning("%s not rotated path=%s problem=%s", self._setting, path, error.strerror)

    def _is_current(self, path: Path, rotate_bytes: int) -> bool:
        try:
            found = os.stat(path)  # noqa: PTH116  (a third of the time, once a line)
        except FileNotFoundError:
            return False
        return found.st_ino == self._inode and found.st_size < rotate_bytes


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
