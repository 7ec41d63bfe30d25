"""Telling what a child process writes while it runs."""

import time

from planner.demo.processes import following


def wait_for(told, line):
    """Wait until `line` was told."""
    for _ in range(200):
        if line in told:
            return
        time.sleep(0.05)
    raise AssertionError(f"{line!r} was not told")


def test_whole_lines_are_told_once_as_they_come(tmp_path):
    """The file may come late, half a line is not told before its end, and none is told twice."""
    told, path = [], tmp_path / "metrics.jsonl"
    with following(path, told.append):
        path.write_text("one\ntw")
        wait_for(told, "one")
        with path.open("a") as file:
            file.write("o\n")
        wait_for(told, "two")
        with path.open("a") as file:
            file.write("last\nhalf")
    assert told == ["one", "two", "last"]


def test_a_file_that_never_comes_is_no_failure(tmp_path):
    """A child that fails before its first line is told of by others."""
    with following(tmp_path / "nothing", lambda line: None):
        pass
