"""The features log and the grades beside it."""

import json
import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.errors import DocumentError
from router.errors import StartError
from router.features_log import FeaturesLine, FeaturesLog, FeaturesLogs, read_lines
from router.grades import read_grades
from router.line_file import rotated_files
from router.prediction.features import hash_text

LINE = FeaturesLine(
    request_id="r-1",
    arrival_unix_seconds=1.5,
    asked="auto",
    models=("a", "b"),
    predicted=(0.25, 0.5),
    pick="b",
    reason="best_predicted",
    propensity=1.0,
    goals={"cheapest": 0.2},
    prompt_bytes=21,
    features=hash_text("zebra crossing, please"),
)


def written(path: Path, *lines: FeaturesLine, most_bytes: int = 10**9) -> Path:
    """Write a log of `lines` and return its path."""
    log = FeaturesLog(path, most_bytes=most_bytes)
    for line in lines:
        log.write(line)
    log.close()
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """A line comes back as it was, its arrays bit for bit."""
    path = written(tmp_path / "f.jsonl", LINE, replace(LINE, predicted=None))
    first, second = read_lines(path)
    assert replace(first, features=LINE.features) == LINE
    for name in ("indices", "values", "cues"):
        before, after = getattr(LINE.features, name), getattr(first.features, name)
        assert before.dtype == after.dtype
        assert np.array_equal(before, after)
    assert second.predicted is None


def test_no_word_of_the_prompt_is_kept(tmp_path: Path) -> None:
    """The file holds hashed features, none of the text, and only its owner may read it."""
    path = written(tmp_path / "f.jsonl", LINE)
    text = path.read_text()
    assert "zebra" not in text
    assert "crossing" not in text
    assert path.stat().st_mode & 0o077 == 0


def test_a_full_file_makes_room(tmp_path: Path) -> None:
    """At its size it becomes `NAME.1`, in place of the one before; both are read, oldest first."""
    lines = [replace(LINE, request_id=f"r-{number}") for number in range(5)]
    size = len(LINE.text()) + 1
    path = written(tmp_path / "f.jsonl", *lines, most_bytes=2 * size)
    assert [line.request_id for line in read_lines(path)] == ["r-2", "r-3", "r-4"]
    assert rotated_files(path) == (tmp_path / "f.jsonl.1", path)
    assert all(each.stat().st_mode & 0o077 == 0 for each in rotated_files(path))


def test_another_size_counts_from_the_next_line(tmp_path: Path) -> None:
    """A reload goes on with the open file, by the size that the settings name now."""
    logs = FeaturesLogs()
    path = tmp_path / "f.jsonl"
    log = logs.at(path, 10**9)
    for _ in range(3):
        log.write(LINE)
    assert logs.at(path, 1) is log
    log.write(LINE)
    logs.close()
    assert [len(each.read_text().splitlines()) for each in rotated_files(path)] == [3, 1]


ROUNDS = 40


def fill(folder: Path, writer: int, at_once: threading.Barrier) -> None:
    """As one of two processes, find many a file full at the same instant as the other one."""
    size = len(LINE.text()) + 1
    for number in range(ROUNDS):
        log = FeaturesLog(folder / f"{number}.jsonl", most_bytes=4 * size)
        if writer == 0:
            for _ in range(4):
                log.write(LINE)
        at_once.wait(60)
        log.write(LINE)
        assert log.num_lost_lines == 0
        log.close()


def test_two_processes_find_the_file_full_at_once(tmp_path: Path) -> None:
    """One of them renames it, the other one follows: no line is lost, no full file overwritten."""
    fork = multiprocessing.get_context("fork")
    at_once = fork.Barrier(2)
    writers = [fork.Process(target=fill, args=(tmp_path, n, at_once)) for n in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    for number in range(ROUNDS):
        files = rotated_files(tmp_path / f"{number}.jsonl")
        assert [len(each.read_text().splitlines()) for each in files] == [4, 2]


def test_two_writers_share_a_file(tmp_path: Path) -> None:
    """A writer whose file another one has renamed goes on in the new one."""
    size = len(LINE.text()) + 1
    path = tmp_path / "f.jsonl"
    one, other = (FeaturesLog(path, most_bytes=2 * size) for _ in range(2))
    for log in (one, one, one, other, other, other):
        log.write(LINE)
    one.close()
    other.close()
    assert path.exists()
    assert len(list(read_lines(path))) >= 3


def test_a_folder_that_is_not_there_is_told_at_start(tmp_path: Path) -> None:
    """The one line names the setting and the path."""
    with pytest.raises(StartError, match=r"model_choice\.features_log: .*nowhere"):
        FeaturesLog(tmp_path / "nowhere" / "f.jsonl", most_bytes=1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"schema_version": 2}, "line 1 has versions"),
        ({"features_version": 0}, "line 1 has versions"),
        ({"indices": "?"}, "line 1 is not whole"),
        ({"propensity": None}, "line 1 is not whole"),
    ],
)
def test_other_lines_are_refused(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    """A line of another version, or one that is not whole, is told by its number."""
    path = tmp_path / "f.jsonl"
    path.write_text(json.dumps(json.loads(LINE.text()) | change))
    with pytest.raises(DocumentError, match=problem):
        list(read_lines(path))


def test_text_is_no_line(tmp_path: Path) -> None:
    """A file of something else ends in one line that says so."""
    path = tmp_path / "f.jsonl"
    path.write_text("hello\n")
    with pytest.raises(DocumentError, match="line 1 is no line of a features log"):
        list(read_lines(path))
    with pytest.raises(DocumentError, match="cannot be read"):
        list(read_lines(tmp_path / "missing"))


def test_the_last_grade_of_an_answer_counts(tmp_path: Path) -> None:
    """Grades are read by answer; a later one replaces an earlier one."""
    path = tmp_path / "g.jsonl"
    rows = [("r-1", "a", 0.0), ("r-2", "a", 0.5), ("r-1", "a", 1), ("r-1", "b", 0.25)]
    keys = ("request_id", "model", "score")
    path.write_text(
        "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows) + "\n\n"
    )
    found = {(grade.request_id, grade.model): grade.score for grade in read_grades(path)}
    assert found == {("r-1", "a"): 1, ("r-2", "a"): 0.5, ("r-1", "b"): 0.25}


@pytest.mark.parametrize("text", ["{}", "7", '{"request_id": "r", "model": "a", "score": 2}', "{"])
def test_a_line_that_is_no_grade_is_told(tmp_path: Path, text: str) -> None:
    """The one line names the file and the line."""
    path = tmp_path / "g.jsonl"
    path.write_text(text)
    with pytest.raises(DocumentError, match=r"g\.jsonl: line 1: .*; correct it"):
        read_grades(path)
