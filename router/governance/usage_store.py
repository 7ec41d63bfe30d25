"""What every key has used, by model and day, in an SQLite file that several workers write.

The event loop only adds to sums in memory. One thread writes them, one transaction a quarter of a
second, in write-ahead mode: a process that is killed loses what ended within the last
`FLUSH_SECONDS` and the time of one commit, a machine that crashes perhaps the last commits too. What
cannot be written (a full disk, a lock that another program holds) stays in memory, is logged once a
minute, counted, and tried again. The sums are by key, model and day, so they stay small however long
that lasts. Only a sum that no 64-bit number holds is dropped, with a line of log: the file will never
take it.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from router.errors import StartError
from router.governance.account import Amount

FLUSH_SECONDS = 0.25
BUSY_SECONDS = 5.0
"""How long a commit waits for other writers."""
_VERSION = 1
_MOST = 2**63 - 1
"""SQLite's largest whole number."""
_COMPLAIN_SECONDS = 60.0

_TABLE = """
CREATE TABLE IF NOT EXISTS usage (
    tenant TEXT NOT NULL,
    model TEXT NOT NULL,
    day INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    cost_nanousd INTEGER NOT NULL,
    PRIMARY KEY (tenant, model, day)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (tenant, model, day) DO UPDATE SET
    requests = requests + excluded.requests,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    cost_nanousd = cost_nanousd + excluded.cost_nanousd
"""
_SPENT = """
SELECT COALESCE(SUM(prompt_tokens + completion_tokens), 0), COALESCE(SUM(cost_nanousd), 0)
FROM usage WHERE tenant = ? AND day >= ?
"""
_ROWS = """
SELECT tenant, model, day, requests, prompt_tokens, completion_tokens, cost_nanousd
FROM usage WHERE day >= ? AND day <= ? AND (? IS NULL OR tenant = ?) ORDER BY day, tenant, model
"""

logger = logging.getLogger(__name__)

_Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What one key used of one model on one day (days since 1970, UTC)."""

    tenant: str
    model: str
    day: int
    num_requests: int
    prompt_tokens: int
    completion_tokens: int
    cost_nanousd: int


class UsageStore:
    """The file, and the thread that writes it; `start` in the process that adds."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Make the file if there is none, and check it.

        Raises:
            StartError: If it cannot be opened or is no usage file.
        """
        self._path = path
        self._monotonic = monotonic
        self._sums: dict[_Key, list[int]] = {}
        self._sums_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._wake = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._writer: sqlite3.Connection | None = None
        self._complained_at = float("-inf")
        self._written_number: int | None = None
        """The inode of the file that the writer holds."""
        self.num_failed_writes = 0
        self.is_failing = False
        """Whether the last write failed."""
        try:
            with self._connected() as connection:
                self._prepare(connection)
        except sqlite3.Error as error:
            message = f"governance.usage_file: {path} cannot be used ({error}); move it away, or name another"
            raise StartError(message) from None

    def start(self) -> None:
        """Begin to write; forked workers call this, never the process they come from."""
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)
        self._thread.start()

    def add(
        self, tenant: str, model: str, day: int, tokens: tuple[int, int], cost_nanousd: int
    ) -> None:
        """Count one request with its prompt and completion tokens."""
        with self._sums_lock:
            sums = self._sums.setdefault((tenant, model, day), [0, 0, 0, 0])
            sums[0] += 1
            sums[1] += tokens[0]
            sums[2] += tokens[1]
            sums[3] += cost_nanousd

    def flush(self) -> bool:
        """Write what was added so far; return whether nothing is left to write."""
        with self._write_lock:
            with self._sums_lock:
                sums, self._sums = self._sums, {}
            self._drop_too_large(sums)
            if not sums:
                return True
            try:
                self._write(sums)
            except sqlite3.Error as error:
                self._close_writer()
                self._keep(sums)
                self._complain(error)
                return False
            self._recover()
            return True

    def spent(self, tenant: str, *, since_day: int) -> Amount:
        """Return what a key has used since a day, as far as it is written.

        Raises:
            sqlite3.Error: If the file cannot be read.
        """
        with self._connected() as connection:
            tokens, cost = connection.execute(_SPENT, (tenant, since_day)).fetchone()
        return Amount(tokens, cost)

    def rows(
        self, *, since_day: int, until_day: int, tenant: str | None = None
    ) -> tuple[UsageRow, ...]:
        """Return the rows of some days, first and last included, as far as they are written.

        Raises:
            sqlite3.Error: If the file cannot be read.
        """
        with self._connected() as connection:
            found = connection.execute(_ROWS, (since_day, until_day, tenant, tenant)).fetchall()
        return tuple(UsageRow(*row) for row in found)

    def close(self) -> None:
        """Write the rest and end the thread."""
        self._is_closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()
        if not self.flush():
            logger.error("usage lost path=%s num_rows=%d", self._path, len(self._sums))
        self._close_writer()

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(FLUSH_SECONDS)
            self.flush()

    def _write(self, sums: dict[_Key, list[int]]) -> None:
        # Kept open: closing the last connection would move the log into the file every time.
        if self._writer is not None and self._file_number() != self._written_number:
            logger.error("usage file was taken away, another is begun path=%s", self._path)
            self._close_writer()
        if self._writer is None:
            self._writer = self._connect()
            with self._writer:
                self._prepare(self._writer)
            self._written_number = self._file_number()
        with self._writer:
            self._writer.executemany(_ADD, [(*key, *counts) for key, counts in sums.items()])

    def _drop_too_large(self, sums: dict[_Key, list[int]]) -> None:
        """Take out what the file cannot hold: it would keep all the rest from being written."""
        for key in [key for key, counts in sums.items() if max(map(abs, counts)) > _MOST]:
            counts = sums.pop(key)
            self.num_failed_writes += 1
            logger.error(
                "usage too large to be written, dropped path=%s tenant=%s model=%s day=%d counts=%s",
                self._path,
                *key,
                counts,
            )

    def _file_number(self) -> int | None:
        """Return the inode of the file under the name; None: there is none."""
        try:
            return self._path.stat().st_ino
        except OSError:
            return None

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _connect(self) -> sqlite3.Connection:
        # The writer belongs to whoever holds the lock: the thread, or what closes the store.
        connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    @contextmanager
    def _connected(self) -> Generator[sqlite3.Connection]:
        """Yield a connection for one transaction."""
        connection = self._connect()
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (num_tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version not in (0, _VERSION) or (version == 0 and num_tables):
            raise sqlite3.DatabaseError(f"it is no usage file of version {_VERSION}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(_TABLE)
        connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("SELECT COUNT(*) FROM usage").fetchone()

    def _keep(self, sums: dict[_Key, list[int]]) -> None:
        """Put back what could not be written, under what came meanwhile."""
        with self._sums_lock:
            for key, counts in self._sums.items():
                before = sums.get(key, [0, 0, 0, 0])
                sums[key] = [old + new for old, new in zip(before, counts, strict=True)]
            self._sums = sums

    def _complain(self, error: sqlite3.Error) -> None:
        self.num_failed_writes += 1
        self.is_failing = True
        now = self._monotonic()
        if now - self._complained_at >= _COMPLAIN_SECONDS:
            self._complained_at = now
            logger.error(
                "usage not written, kept in memory path=%s num_failed_writes=%d problem=%s",
                self._path,
                self.num_failed_writes,
                error,
            )

    def _recover(self) -> None:
        if self.is_failing:
            self.is_failing = False
            self._complained_at = float("-inf")
            logger.info("usage written again path=%s", self._path)
