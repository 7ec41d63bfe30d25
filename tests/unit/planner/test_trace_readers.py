"""Trace files: every format to the same trace, and every row accounted for."""

import json

import pytest

from planner.errors import DocumentError
from planner.workloads.trace import Trace
from planner.workloads.trace_readers import read_trace
from planner.workloads.trace_writer import traffic_lines

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.0000000,100,10
2024-05-10 00:00:00.5000000,200,20
2024-05-10 00:00:02.0000000,300,30
"""
BURSTGPT = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,,1.5,ChatGPT,100,10,110,Conversation log
5.5,7,2.5,GPT-4,200,20,220,API log
7,,0.1,GPT-4,50,0,50,API log
7,8,3,ChatGPT,300.0,30.0,330,API log
"""
MOONCAKE = """{"timestamp": 1000, "input_length": 100, "output_length": 10, "hash_ids": [0, 1]}
{"timestamp": 1500, "input_length": 200, "output_length": 20, "hash_ids": [0]}

{"timestamp": 3000, "input_length": 300, "output_length": 30, "hash_ids": []}
"""


def _line(at_seconds, prompt, completion, **more):
    content = {
        "schema_version": 1,
        "arrival_unix_seconds": at_seconds,
        "request_id": "r",
        "model": "tiny",
        "replica": "http://127.0.0.1:8001",
        "stream": True,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "ttft_seconds": 0.1,
        "tpot_seconds": None,
        "duration_seconds": 1.0,
        "status": 200,
        "retries": 0,
    }
    return json.dumps(content | more) + "\n"


MOTLEY = (
    _line(1_700_000_000.5, 200, 20, model="big", max_tokens=64)
    + _line(1_700_000_000.0, 100, 10)
    + _line(1_700_000_001.0, None, None, status=502, model=None)
    + _line(1_700_000_001.0, 40, None, status=499)
    + _line(1_700_000_001.2, 40, 0)
    + _line(1_700_000_002.0, 300, 30)
)


def _file(tmp_path, text, name="trace"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "format_name"),
    [(AZURE, "azure"), (BURSTGPT, "burstgpt"), (MOONCAKE, "mooncake"), (MOTLEY, "motley")],
)
def test_every_format_is_recognised_and_gives_the_same_trace(tmp_path, text, format_name):
    """Arrivals in seconds from 0, input and output tokens, whatever the file calls them."""
    reading = read_trace(_file(tmp_path, text))
    assert reading.format_name == format_name
    assert reading.trace.arrival_seconds == pytest.approx((0, 0.5, 2))
    assert reading.trace.input_tokens == (100, 200, 300)
    assert reading.trace.output_tokens == (10, 20, 30)
    assert read_trace(_file(tmp_path, text), format_name=format_name) == reading


def test_models_and_limits_are_carried_where_known(tmp_path):
    """BurstGPT and the router's log name models; the log may carry `max_tokens`."""
    assert read_trace(_file(tmp_path, AZURE)).trace.models is None
    assert read_trace(_file(tmp_path, BURSTGPT)).trace.models == ("ChatGPT", "GPT-4", "ChatGPT")
    log = read_trace(_file(tmp_path, MOTLEY)).trace
    assert log.models == ("tiny", "big", "tiny")
    assert log.max_tokens == (None, 64, None)


def test_unanswered_requests_are_counted_by_reason_with_their_lines(tmp_path):
    """They are no part of the trace, and the user is told which they were."""
    reading = read_trace(_file(tmp_path, MOTLEY))
    assert reading.counts.num_rows == 6
    assert {why: tally.count for why, tally in reading.counts.unanswered.items()} == {
        "status 502": 1,
        "status 499": 1,
        "no output tokens": 1,
    }
    assert reading.notes[0] == (
        "3 of 6 requests were not answered (1 with status 502, line 3; 1 with status 499, line 4; "
        "1 with no output tokens, line 5); they are left out"
    )


def test_the_routers_log_is_sorted_and_says_so(tmp_path):
    """Its lines are written when answers end, so disorder is no damage."""
    reading = read_trace(_file(tmp_path, MOTLEY))
    assert reading.notes[1] == (
        "1 of 6 rows arrive before a row above them (line 2), as lines are written when answers "
        "end; they were sorted"
    )


def test_other_files_out_of_order_are_refused_unless_sorting_is_asked(tmp_path):
    """The first few such lines are named."""
    header, *rows = AZURE.splitlines()
    path = _file(tmp_path, "\n".join([header, rows[2], rows[0], rows[1], *rows[:1] * 3]))
    with pytest.raises(DocumentError, match=r"5 of 6 rows arrive .*line 3; line 4; line 5; \.\.\."):
        read_trace(path)
    reading = read_trace(path, sort_rows=True)
    assert reading.trace.arrival_seconds == (0, 0, 0, 0, 0.5, 2)
    assert reading.notes[0].endswith("they were sorted")


BROKEN_CSV = {
    "no number": ("2024-05-10 00:00:03,many,1", "ContextTokens is 'many', no number"),
    "NaN": ("2024-05-10 00:00:03,nan,1", "ContextTokens is 'nan', no finite number"),
    "infinity": ("2024-05-10 00:00:03,1,inf", "GeneratedTokens is 'inf', no finite number"),
    "negative": ("2024-05-10 00:00:03,-5,1", "ContextTokens is '-5', below 0"),
    "fraction": ("2024-05-10 00:00:03,1.5,1", "ContextTokens is '1.5', no whole number"),
    "huge": ("2024-05-10 00:00:03,1e12,1", "ContextTokens is '1e12', not from 1"),
    "no input": ("2024-05-10 00:00:03,0,7", "ContextTokens is '0', not from 1"),
    "no date": ("yesterday,1,1", "TIMESTAMP is 'yesterday', no date and time"),
    "too few fields": ("2024-05-10 00:00:03,1", "has 2 fields, the header 3"),
    "open quote": ('2024-05-10 00:00:03,"1,1', "is no CSV"),
}


@pytest.mark.parametrize("row", BROKEN_CSV)
def test_a_broken_row_is_refused_with_line_reason_and_remedy(tmp_path, row):
    """Nothing is skipped in silence."""
    text, reason = BROKEN_CSV[row]
    with pytest.raises(DocumentError) as caught:
        read_trace(_file(tmp_path, AZURE + text + "\n"))
    message = str(caught.value)
    assert "1 of 4 rows are broken (line 5: " in message
    assert reason in message
    assert "broken_rows_fraction 0.25 (--broken-rows-fraction)" in message


BROKEN_JSON = {
    "no JSON": ("{", "is no JSON"),
    "no object": ("[1]", "is no JSON object"),
    "another schema": (
        _line(1, 1, 1, schema_version=2),
        "schema_version is 2; this reader knows 1",
    ),
    "NaN arrival": (_line(float("nan"), 1, 1), "arrival_unix_seconds is nan, no finite number"),
    "NaN tokens": (_line(1, float("nan"), 1), "prompt_tokens is nan, no finite number"),
    "truth": (_line(1, True, 1), "prompt_tokens is True, no number"),
    "answered without tokens": (_line(1, None, None), "completion_tokens is None, no number"),
    "model is no text": (_line(1, 1, 1, model=5), "model is 5, no text"),
    "limit of 0": (_line(1, 1, 1, max_tokens=0), "max_tokens is 0, not from 1"),
    "negative arrival": (_line(-1, 1, 1), "arrival_unix_seconds is -1, below 0"),
    "endless integer": ("{" + '"schema_version": ' + "1" * 5000 + "}", "is no JSON"),
}


@pytest.mark.parametrize("row", BROKEN_JSON)
def test_a_broken_line_of_the_log_is_refused_with_line_and_reason(tmp_path, row):
    """NaN, which Python's JSON reader accepts, is refused like any other broken value."""
    text, reason = BROKEN_JSON[row]
    with pytest.raises(DocumentError) as caught:
        read_trace(_file(tmp_path, MOTLEY + text + "\n"))
    assert f"1 of 7 rows are broken (line 7: {reason}" in str(caught.value)


def test_broken_rows_within_the_fraction_are_left_out_and_the_first_few_named(tmp_path):
    """Four of seven: three are named, the rest stands behind dots."""
    path = _file(tmp_path, AZURE + "x,1,1\n" * 4)
    with pytest.raises(DocumentError, match=r"broken_rows_fraction 0\.572 \(--broken"):
        read_trace(path, broken_rows_fraction=0.5)
    reading = read_trace(path, broken_rows_fraction=0.572)
    assert (reading.trace.num_requests, reading.counts.broken.count) == (3, 4)
    assert reading.notes[0].startswith("4 of 7 rows are broken (line 5: TIMESTAMP is 'x'")
    assert "line 7" in reading.notes[0]
    assert "line 8" not in reading.notes[0]
    assert reading.notes[0].endswith("; ...); they are left out")


def test_a_fraction_that_is_no_number_allows_nothing(tmp_path):
    """NaN compares false to everything; it must not open the gate."""
    with pytest.raises(DocumentError, match="rows are broken"):
        read_trace(_file(tmp_path, AZURE + "x,1,1\n"), broken_rows_fraction=float("nan"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; a trace holds at least one request"),
        ("\n\n  \n", "is empty"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "holds no answered request in 0 rows; a"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10,5,0\n",
            r"in 1 rows: 1 of 1 requests were not answered \(1 with no output tokens, line 2\)",
        ),
        ("a,b,c\n1,2,3\n", "line 1 has the fields of no known trace format"),
        ('{"a": 1}\n', "line 1 has the fields of no known trace format"),
        ("TIMESTAMP,TIMESTAMP,ContextTokens,GeneratedTokens\n", "its header has TIMESTAMP twice"),
    ],
)
def test_a_file_that_holds_no_trace_is_refused(tmp_path, text, message):
    """Empty files, headers alone, and files of another kind."""
    with pytest.raises(DocumentError, match=message):
        read_trace(_file(tmp_path, text))


def test_a_named_format_is_held_to_its_columns(tmp_path):
    """The missing columns are listed; an unknown name is the caller's mistake."""
    with pytest.raises(DocumentError, match="lacks Timestamp, Model, Request tokens"):
        read_trace(_file(tmp_path, AZURE), format_name="burstgpt")
    with pytest.raises(ValueError, match="use one of: azure, burstgpt, mooncake, motley"):
        read_trace(_file(tmp_path, AZURE), format_name="csv")


def test_files_that_cannot_be_read_are_refused(tmp_path):
    """Missing, a folder, or not text."""
    with pytest.raises(DocumentError, match="no such file"):
        read_trace(tmp_path / "missing.csv")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_trace(tmp_path)
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DocumentError, match="cannot be read"):
        read_trace(path)


def test_a_written_trace_is_read_back_unchanged(tmp_path):
    """Models, limits and equal arrivals included."""
    trace = Trace((0.0, 0.25, 0.25), (5, 6, 7), (1, 2, 3), ("a", "", "b"), (None, 9, 10))
    reading = read_trace(_file(tmp_path, "".join(traffic_lines(trace))))
    assert (reading.trace, reading.format_name, reading.notes) == (trace, "motley", ())
