"""Lines of several processes in one file, and its rotation."""

import json
import logging
import multiprocessing
import resource
from pathlib import Path

import pytest

from planner.workloads.trace_readers import read_trace
from router.line_file import LOCK_SUFFIX, LineFile, rotated_files
from router.traffic_log import RequestRecord, TrafficLog
from router.usage import Usage

NUM_LINES = 400


def write_lines(path: Path, writer: int) -> None:
    """Write numbered lines as one of several processes."""
    file = LineFile(path, setting="test", rotate_bytes=4096, keep=99)
    for number in range(NUM_LINES):
        file.write(json.dumps([writer, number, "x" * (number % 50)]))
    assert file.num_lost_lines == 0
    file.close()


def test_processes_that_rotate_lose_no_line(tmp_path: Path) -> None:
    """Every line is in exactly one file, whole, and each process's lines are in their order."""
    path = tmp_path / "log.jsonl"
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_lines, args=(path, n)) for n in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    files = rotated_files(path)
    assert len(files) > 5
    assert all(each.stat().st_size < 4096 + 4 * 100 for each in files)
    lines = [json.loads(line) for each in files for line in each.read_text().splitlines()]
    for n in range(3):
        assert sorted(line[1] for line in lines if line[0] == n) == list(range(NUM_LINES))
    assert len(lines) == 3 * NUM_LINES


def test_the_oldest_file_is_deleted(tmp_path: Path) -> None:
    """At most `keep` older files stay, the newest lines among them."""
    path = tmp_path / "log"
    file = LineFile(path, setting="test", rotate_bytes=4096, keep=2)
    for number in range(100):
        file.write(f"{number:03d}" + "x" * 500)
    file.close()
    files = rotated_files(path)
    assert [each.name for each in files] == ["log.2", "log.1", "log"]
    numbers = [int(line[:3]) for each in files for line in each.read_text().splitlines()]
    assert numbers == list(range(numbers[0], 100))


def write_on_a_full_disk(path: Path, first: str) -> None:
    """Write lines that a limit cuts in the middle of one, then one more without the limit."""
    now = 0.0
    complaints: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: complaints.append(record.getMessage())
    logging.getLogger("router").addHandler(handler)
    logging.getLogger("router").setLevel(logging.INFO)
    file = LineFile(path, setting="x.test_log", monotonic=lambda: now)
    file.write(first)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(first) + 20, hard))
    for number in range(3):
        file.write(f"{number}" + "y" * 50)
    now = 60.0
    file.write("3" + "y" * 50)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    file.write("last")
    assert file.num_lost_lines == 4
    losses, (again,) = complaints[:-1], complaints[-1:]
    assert [loss.split(" problem=")[0] for loss in losses] == [
        f"test line lost path={path} num_lost_lines={number}" for number in (1, 4)
    ]
    assert again == f"test lines written again path={path} num_lost_lines=4"


def test_a_line_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    """It is lost whole, told once a minute, and the next one that finds room is a line again."""
    path = tmp_path / "log"
    child = multiprocessing.get_context("fork").Process(
        target=write_on_a_full_disk, args=(path, "first")
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert path.read_text() == "first\nlast\n"


def test_a_new_file_that_cannot_be_begun_costs_no_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines go on into the old one; it is told once a minute."""
    path = tmp_path / "log"
    file = LineFile(path, setting="test", rotate_bytes=10)
    lock = Path(f"{path}{LOCK_SUFFIX}")
    lock.mkdir()  # stands for a disk without room for it
    for number in range(4):
        file.write(f"line {number}")
    assert len(path.read_text().splitlines()) == 4
    assert caplog.text.count("test file not rotated") == 1
    lock.rmdir()
    file.write("last")
    file.close()
    assert [len(each.read_text().splitlines()) for each in rotated_files(path)] == [4, 1]
    assert file.num_lost_lines == 0


def test_the_planner_reads_a_rotated_log(tmp_path: Path) -> None:
    """The files of a rotated log, one after another, are the trace of every request."""
    log = TrafficLog(tmp_path / "traffic.jsonl", rotate_bytes=4096, keep=99)
    for number in range(60):
        record = RequestRecord(1000.0 + number, 0.0, f"r{number}", tenant="alice", model="m")
        record.usage, record.status = Usage(10 + number, 5), 200
        log.write(record.line(ended_at=1.0))
    log.close()
    files = rotated_files(tmp_path / "traffic.jsonl")
    assert len(files) > 2
    whole = tmp_path / "whole.jsonl"
    whole.write_text("".join(each.read_text() for each in files))
    assert read_trace(whole).trace.input_tokens == tuple(range(10, 70))
    assert read_trace(files[0]).trace.input_tokens[0] == 10


def test_a_folder_that_is_gone_costs_lines_that_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is looked for once a second; when it is there again, so are the lines."""
    folder = tmp_path / "folder"
    folder.mkdir()
    seconds = iter(range(0, 100, 2))
    file = LineFile(folder / "log", setting="test", monotonic=lambda: float(next(seconds)))
    file.write("one")
    (folder / "log").unlink()
    folder.rmdir()
    file.write("two")
    assert file.num_lost_lines == 1
    assert "test line lost" in caplog.text
    folder.mkdir()
    file.write("three")
    file.close()
    lines = [line for line in (folder / "log").read_text().splitlines() if line]
    assert lines == ["three"]
