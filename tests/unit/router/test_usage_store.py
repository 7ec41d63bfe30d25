"""The SQLite file of usage: sums, several writers, and what goes wrong with files."""

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

from router.errors import StartError
from router.governance.account import Amount
from router.governance.usage_store import UsageRow, UsageStore


def add_many(path: Path, num_requests: int) -> None:
    """Add as one worker does, its thread writing meanwhile."""
    store = UsageStore(path)
    store.start()
    for _ in range(num_requests):
        store.add("alice", "tiny", 5, (3, 2), 7)
    store.close()


def test_sums_of_several_writers(tmp_path: Path) -> None:
    """Nothing is lost between processes that write one file at once, nor by an orderly end."""
    path = tmp_path / "usage.sqlite"
    UsageStore(path).close()
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=add_many, args=(path, 2000)) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    store = UsageStore(path)
    expected = (UsageRow("alice", "tiny", 5, 6000, 18_000, 12_000, 42_000),)
    assert store.rows(since_day=5, until_day=5) == expected
    assert store.rows(since_day=6, until_day=9) == ()
    assert store.rows(since_day=5, until_day=5, tenant="bob") == ()
    assert store.spent("alice", since_day=5) == Amount(30_000, 42_000)
    assert store.spent("alice", since_day=6) == Amount(0, 0)
    store.close()


def test_what_cannot_be_written_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file gone bad is counted and told once; when it is good again nothing is missing."""
    path = tmp_path / "usage.sqlite"
    store = UsageStore(path)
    good = path.read_bytes()
    for each in tmp_path.iterdir():
        each.unlink()
    path.write_bytes(b"this is no database" * 100)
    for _ in range(3):
        store.add("alice", "tiny", 5, (3, 2), 7)
        assert not store.flush()
    assert (store.num_failed_writes, store.is_failing) == (3, True)
    assert caplog.text.count("usage not written") == 1
    path.write_bytes(good)
    assert store.flush()
    assert not store.is_failing
    assert store.rows(since_day=5, until_day=5) == (UsageRow("alice", "tiny", 5, 3, 9, 6, 21),)
    store.close()


def test_a_locked_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another program holds fails the write for now, and nothing is lost."""
    monkeypatch.setattr("router.governance.usage_store.BUSY_SECONDS", 0.01)
    path = tmp_path / "usage.sqlite"
    store = UsageStore(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    store.add("alice", "tiny", 5, (3, 2), 7)
    assert not store.flush()
    other.execute("ROLLBACK")
    other.close()
    assert store.flush()
    assert store.spent("alice", since_day=0) == Amount(5, 7)
    store.close()


def test_a_sum_no_file_can_hold_is_dropped_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and told, what else was used is written, and the thread goes on."""
    store = UsageStore(tmp_path / "usage.sqlite")
    store.add("alice", "tiny", 5, (10**29, 2), 7)
    store.add("bob", "tiny", 5, (3, 2), 7)
    assert store.flush()
    assert (store.num_failed_writes, store.is_failing) == (1, False)
    assert caplog.text.count("usage too large to be written, dropped") == 1
    assert store.rows(since_day=5, until_day=5) == (UsageRow("bob", "tiny", 5, 1, 3, 2, 7),)
    store.close()


@pytest.mark.parametrize("kind", ["text", "other database", "folder", "no folder"])
def test_what_is_no_usage_file_is_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    """One line that names the file; it is left as it is."""
    path = tmp_path / "usage.sqlite"
    if kind == "text":
        path.write_text("this is no database, but text" * 100)
    elif kind == "other database":
        other = sqlite3.connect(path)
        other.execute("CREATE TABLE mine (x)")
        other.close()
    elif kind == "folder":
        path.mkdir()
    else:
        path = tmp_path / "none" / "usage.sqlite"
    with pytest.raises(StartError, match=r"governance\.usage_file: .*usage\.sqlite cannot be used"):
        UsageStore(path)


def test_a_file_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    """What is added afterwards stands in the new file; what it held went with it."""
    path = tmp_path / "usage.sqlite"
    store = UsageStore(path)
    store.add("alice", "tiny", 5, (3, 2), 7)
    assert store.flush()
    for each in tmp_path.iterdir():
        each.unlink()
    for _ in range(2):
        store.add("alice", "tiny", 5, (3, 2), 7)
        assert store.flush()
    assert store.rows(since_day=5, until_day=5) == (UsageRow("alice", "tiny", 5, 2, 6, 4, 14),)
    store.close()
