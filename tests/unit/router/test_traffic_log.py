"""The traffic log's lines and file."""

import json
from pathlib import Path

import pytest

from router.errors import StartError
from router.traffic_log import RequestRecord, TrafficLog
from router.usage import Usage


def record() -> RequestRecord:
    """Return the record of a request that has just arrived."""
    return RequestRecord(arrival_unix_seconds=1000.5, arrived_at=10.0, request_id="r")


def test_line_of_a_stream() -> None:
    """TTFT counts from arrival; TPOT spreads the rest over the tokens after the first."""
    stream = record()
    stream.model, stream.replica, stream.is_stream = "m", "http://a", True
    stream.usage = Usage(prompt_tokens=7, completion_tokens=5)
    stream.num_text_pieces = 3
    stream.first_byte_at, stream.last_byte_at, stream.status = 10.25, 12.25, 200
    assert json.loads(stream.line(ended_at=12.5)) == {
        "schema_version": 1,
        "arrival_unix_seconds": 1000.5,
        "request_id": "r",
        "tenant": None,
        "model": "m",
        "replica": "http://a",
        "stream": True,
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "text_pieces": 3,
        "ttft_seconds": 0.25,
        "tpot_seconds": 0.5,
        "duration_seconds": 2.5,
        "status": 200,
        "retries": 0,
    }


@pytest.mark.parametrize("num_tokens", [None, 0, 1])
def test_no_time_per_token_without_two_tokens(num_tokens: int | None) -> None:
    """What cannot be computed is null."""
    stream = record()
    stream.usage = Usage(completion_tokens=num_tokens)
    stream.first_byte_at, stream.last_byte_at = 11.0, 12.0
    assert json.loads(stream.line(ended_at=12.0))["tpot_seconds"] is None


def test_lines_are_appended_at_once(tmp_path: Path) -> None:
    """A line is in the file when `write` returns, after those of earlier runs."""
    path = tmp_path / "traffic.jsonl"
    for run in ("first", "second"):
        log = TrafficLog(path)
        log.write(run)
        assert path.read_text().splitlines()[-1] == run
        log.close()
    assert path.read_text() == "first\nsecond\n"


def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    """A log that cannot be opened stops the start with a message that names it."""
    with pytest.raises(StartError, match=r"traffic_log: .* cannot be opened"):
        TrafficLog(tmp_path / "none" / "traffic.jsonl")


def test_full_disk_loses_the_line_and_counts_it(caplog: pytest.LogCaptureFixture) -> None:
    """A line that cannot be written is reported and counted; requests go on."""
    log = TrafficLog(Path("/dev/full"))
    log.write("x")
    log.close()
    assert log.num_lost_lines == 1
    assert "traffic line lost" in caplog.text


def test_no_path_writes_nothing() -> None:
    """Without a path lines are dropped by configuration."""
    log = TrafficLog(None)
    log.write("x")
    log.close()
    assert log.num_lost_lines == 0
