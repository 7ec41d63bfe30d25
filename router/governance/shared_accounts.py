"""The accounts of all keys in one mapped file, which every worker changes under a lock.

A file, because what is in it outlives any process, killed ones included: the kernel writes it back.
After a crash of the machine it may be older than the usage file or damaged; at each start it is
raised to what that file says, and made anew if it cannot be read. Only one router at a time opens
it; its workers inherit the mapping.

Layout, in 64-bit whole numbers: a header of 16 (mark, version, cells an account, number of accounts),
then the accounts, each after the four that hold the SHA-256 of its name.
"""

import errno
import fcntl
import hashlib
import logging
import mmap
import os
import struct
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from router.errors import QuotaLockError, StartError
from router.governance.account import ACCOUNT_CELLS, Account

MOST_ACCOUNTS = 4096
"""Names the file has room for; the file is sparse, and takes room for those in use only."""
_MARK = int.from_bytes(b"MOTLEYQ1", "little")
_HEADER_CELLS = 16
_NAME_CELLS = 4
_RECORD_CELLS = _NAME_CELLS + ACCOUNT_CELLS
_NUM_BYTES = 8 * (_HEADER_CELLS + MOST_ACCOUNTS * _RECORD_CELLS)
_LOCK_TRIES = 1000
_LOCK_PAUSE_SECONDS = 1e-4

logger = logging.getLogger(__name__)


class SharedAccounts:
    """The file, mapped; one lock for each account, held for microseconds."""

    def __init__(self, path: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Open or make the file.

        Raises:
            StartError: If it cannot be opened, or another router has it.
        """
        self._path = path
        self._sleep = sleep
        self._worker = 0
        self._is_shared = False
        self._places: dict[str, int] = {}
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(_cannot(path, error)) from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, _NUM_BYTES)
            self._map = mmap.mmap(self._descriptor, _NUM_BYTES)
        except BlockingIOError:
            os.close(self._descriptor)
            message = f"{path} is used by another router; name another governance.usage_file"
            raise StartError(message) from None
        except (OSError, ValueError) as error:
            os.close(self._descriptor)
            raise StartError(_cannot(path, error)) from None
        self._cells = memoryview(self._map).cast("q")
        try:
            self._check_header()
        except OSError as error:
            self.close()
            raise StartError(_cannot(path, error)) from None

    def become_worker(self, number: int, *, is_shared: bool) -> None:
        """View the accounts as the worker of that number, and clear what its forerunner reserved.

        Args:
            number: From 0.
            is_shared: Whether there are other workers; alone nothing needs a lock.
        """
        self._worker = number
        self._is_shared = is_shared
        # All that the file holds: other workers know of keys that came after this process forked.
        for start in self._starts():
            self._lock_at(start)
            try:
                Account(self._cells, start, worker=number).clear_reservations()
            finally:
                self._unlock_at(start)

    def open_account(self, name: str) -> Account:
        """Return the account of a name, a new one if there is none.

        Raises:
            StartError: If the file is full.
        """
        start = self._places.get(name)
        if start is None:
            start = self._places[name] = self._find_or_add(name)
        return Account(self._cells, start, worker=self._worker)

    def lock(self, name: str) -> None:
        """Wait for the account's lock; `unlock` must follow.

        Raises:
            QuotaLockError: If another worker, stopped from outside perhaps, holds it for long.
        """
        self._lock_at(self._places[name])

    def unlock(self, name: str) -> None:
        """Give the account's lock back."""
        self._unlock_at(self._places[name])

    @contextmanager
    def held(self, name: str) -> Generator[Account]:
        """Hold the account's lock for a block."""
        account = self.open_account(name)
        self.lock(name)
        try:
            yield account
        finally:
            self.unlock(name)

    def close(self) -> None:
        """Unmap the file; accounts must not be used any more."""
        self._cells.release()
        self._map.close()
        os.close(self._descriptor)

    def _check_header(self) -> None:
        cells = self._cells
        wanted = (_MARK, 1, _RECORD_CELLS)
        if tuple(cells[place] for place in range(3)) == wanted and 0 <= cells[3] <= MOST_ACCOUNTS:
            for start in self._starts():
                Account(cells, start).clear_all_reservations()
            return
        if cells[0]:
            logger.warning("limits file made anew from the usage file path=%s", self._path)
        os.ftruncate(self._descriptor, 0)
        os.ftruncate(self._descriptor, _NUM_BYTES)
        # Without room on the disk a write to the mapping would end the process.
        os.posix_fallocate(self._descriptor, 0, 8 * _HEADER_CELLS)
        for place, value in enumerate(wanted):
            cells[place] = value

    def _starts(self) -> range:
        """Return the places of all accounts in the file."""
        first = _HEADER_CELLS + _NAME_CELLS
        return range(first, first + self._cells[3] * _RECORD_CELLS, _RECORD_CELLS)

    def _find_or_add(self, name: str) -> int:
        digest = struct.unpack("<4q", hashlib.sha256(name.encode()).digest())
        cells = self._cells
        self._lock(0, _HEADER_CELLS)
        try:
            for record in range(cells[3]):
                at = _HEADER_CELLS + record * _RECORD_CELLS
                if all(cells[at + i] == digest[i] for i in range(_NAME_CELLS)):
                    return at + _NAME_CELLS
            if cells[3] >= MOST_ACCOUNTS:
                raise StartError(
                    f"{self._path} holds {MOST_ACCOUNTS} keys, the most; delete it while the router "
                    "is stopped: it is made anew from the usage file"
                )
            at = _HEADER_CELLS + cells[3] * _RECORD_CELLS
            # As for the header.
            os.posix_fallocate(self._descriptor, 8 * at, 8 * _RECORD_CELLS)
            for i in range(_NAME_CELLS):
                cells[at + i] = digest[i]
            cells[3] += 1
            return at + _NAME_CELLS
        except OSError as error:
            raise StartError(_cannot(self._path, error)) from None
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 8 * _HEADER_CELLS, 0)

    def _lock_at(self, start: int) -> None:
        if self._is_shared:
            self._lock(start, ACCOUNT_CELLS)

    def _unlock_at(self, start: int) -> None:
        if self._is_shared:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 8 * ACCOUNT_CELLS, 8 * start)

    def _lock(self, start: int, num_cells: int) -> None:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.lockf(
                    self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 8 * num_cells, 8 * start
                )
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                self._sleep(_LOCK_PAUSE_SECONDS)
            else:
                return
        raise QuotaLockError(_LOCK_TRIES * _LOCK_PAUSE_SECONDS)


def _cannot(path: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or error
    return f"governance.usage_file: {path} cannot be opened ({reason}); check the folder"
