"""Flags at the end of texts."""

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.base import Query
from router.body_edit import edited
from router.choice_config import FlagsConfig
from router.clean_call import cleaned
from router.flags import MOST_FLAG_CHARACTERS, read_tail, take_out_flags
from router.goals import KNOWN, QUALITY

MOST = 8
GOALS = st.sampled_from([goal for goal in KNOWN if goal != QUALITY])
SPACES = st.text(" \t\n", max_size=3)
WEIGHTS = st.decimals(0, 1, places=3).map(str)


@st.composite
def flags(draw: st.DrawFn) -> str:
    """Return one well-formed flag in some of the ways it may be written."""
    goal = draw(GOALS)
    word = draw(st.sampled_from(["", " model"]))
    weight = draw(st.one_of(st.just(""), WEIGHTS.map(lambda each: f"={each}")))
    mark = draw(st.sampled_from(["Flag:", "flag:", "FLAG: "]))
    return f"[{mark}{draw(SPACES)}{draw(st.sampled_from([goal, goal.upper()]))}{word}{weight}]"


TAILS = st.lists(st.tuples(SPACES, flags()), min_size=1, max_size=MOST).map(
    lambda parts: "".join(space + flag for space, flag in parts)
)
PROSE = st.text(max_size=60) | st.tuples(st.text(max_size=20), flags(), st.text(max_size=20)).map(
    "".join
)


def ends_without_flag(text: str) -> bool:
    """Return whether no flag stands at the end of a text, by looking at its last character."""
    return not text.rstrip().endswith("]")


@given(PROSE.filter(ends_without_flag), TAILS, SPACES)
def test_a_tail_is_taken_off_and_nothing_else(text: str, tail: str, space: str) -> None:
    """What stands before the tail stays, but for the white space between them; every flag counts."""
    found = read_tail(text + tail + space, most=MOST)
    assert found.text == text.rstrip()
    assert len(found.flags) == tail.lower().count("flag:")
    assert found.problem is None


@given(PROSE.filter(ends_without_flag))
def test_no_flag_in_the_middle_is_heard(text: str) -> None:
    """A text that does not end in a bracket has no flags and stays as it is, space and all."""
    found = read_tail(text, most=MOST)
    assert found.flags == ()
    assert found.text == text


@given(PROSE, st.none() | TAILS)
def test_stripping_twice_is_stripping_once(text: str, tail: str | None) -> None:
    """What is left after stripping has no tail of its own."""
    once = read_tail(text + (tail or ""), most=MOST)
    if once.problem != "many":
        assert read_tail(once.text, most=MOST).text == once.text
        assert read_tail(once.text, most=MOST).flags == ()


@pytest.mark.parametrize(
    ("text", "flags", "left"),
    [
        ("Hi [Flag: smallest model]", (("smallest", None),), "Hi"),
        ("Hi[flag:LATEST=0.3] \n", (("newest", 0.3),), "Hi"),
        ("[Flag: most secure model = 1]", (("most secure", 1.0),), ""),
        ("a [Flag: cheapest=1][Flag: cheapest=2]", (("cheapest", 1.0), ("cheapest", 2.0)), "a"),
        ("a [Flag: quality=0.8]", (("quality", 0.8),), "a"),
    ],
)
def test_ways_to_write_a_flag(
    text: str, flags: tuple[tuple[str, float | None], ...], left: str
) -> None:
    """Case, the last word `model` and the alias do not matter."""
    found = read_tail(text, most=MOST)
    assert (found.flags, found.text, found.problem) == (flags, left, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("see [1]", None),
        ("Flag: cheapest]", None),
        ("[Flag: cheapest", None),
        ("[ Flag: cheapest]", None),
        ("[Flag: best]", "unknown"),
        ("[Flag:]", "unknown"),
        ("[Flag: cheapest=-1]", "weight"),
        ("[Flag: cheapest=nan]", "weight"),
        ("[Flag: cheapest=inf]", "weight"),
        ("[Flag: cheapest=1e3]", "weight"),
        ("[Flag: cheapest=]", "weight"),
        ("[Flag: cheapest=\u0663]", "weight"),
        ("[Flag: quality]", "weight"),
        ("[Flag: quality=1.5]", "weight"),
        ("[Flag: cheapest]" * (MOST + 1), "many"),
        (f"[Flag: cheapest{' ' * MOST_FLAG_CHARACTERS}]", None),
    ],
)
def test_what_is_no_flag_stays(text: str, problem: str | None) -> None:
    """Ill-formed, unknown and too many flags are reported and left in place."""
    found = read_tail(text, most=MOST)
    assert (found.text, found.flags, found.problem) == (text, (), problem)


def test_an_unknown_flag_ends_the_scan() -> None:
    """Known flags behind an unknown one count, those before it are in the middle."""
    found = read_tail("a [Flag: fastest] [Flag: odd] [Flag: cheapest]", most=MOST)
    assert found.text == "a [Flag: fastest] [Flag: odd]"
    assert (found.flags, found.problem) == ((("cheapest", None),), "unknown")


def num_lines_run(text: str) -> int:
    """Return how many lines of Python run while `text` is scanned: its operations."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read_tail(text, most=MOST)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("unit", ["[", "]", " ", "[Flag: ", "[Flag: cheapest]", "[Flag: x] ", "a"])
def test_the_scan_does_not_grow_with_the_text(unit: str) -> None:
    """A text a thousand times as long takes no more steps of Python, whatever it is made of.

    Inside each of at most `most` + 2 steps the text is cut once, at the speed of a copy.
    """
    short, long = (num_lines_run("start " + unit * times) for times in (20, 20_000))
    assert long == short


def test_only_the_last_user_messages_tail_is_heard() -> None:
    """Tails of earlier user messages go too, unheard; other roles keep what they say."""
    messages = [
        {"role": "system", "content": "Be kind. [Flag: newest]"},
        {"role": "user", "content": "First [Flag: cheapest]"},
        {"role": "assistant", "content": "Yes. [Flag: smallest]"},
        {"role": "user", "content": "Then? [Flag: fastest=0.5]"},
        {"role": "tool", "content": "7 [Flag: shortest]"},
    ]
    found = take_out_flags(messages, most=MOST)
    assert found.tail.flags == (("fastest", 0.5),)
    assert [each["content"] for each in found.messages] == [  # type: ignore[index]
        "Be kind. [Flag: newest]",
        "First",
        "Yes. [Flag: smallest]",
        "Then?",
        "7 [Flag: shortest]",
    ]
    assert messages[1]["content"] == "First [Flag: cheapest]"


def test_the_last_text_part_carries_the_flags() -> None:
    """In a message of parts the last one with text counts, even before an image."""
    parts = [
        {"type": "text", "text": "Quoted [Flag: newest]"},
        {"type": "text", "text": "What is it? [Flag: cheapest]"},
        {"type": "image_url", "image_url": {"url": "data:,"}},
    ]
    found = take_out_flags([{"role": "user", "content": parts}], most=MOST)
    assert found.tail.flags == (("cheapest", None),)
    body = {"messages": [{"role": "user", "content": parts}]}
    changed = json.loads(edited(json.dumps(body), {"messages": found.edits}))
    texts = [part.get("text") for part in changed["messages"][0]["content"]]
    assert texts == ["Quoted [Flag: newest]", "What is it?", None]
    assert changed["messages"] == found.messages


@pytest.mark.parametrize(
    "messages", [[1, None, {"role": "user"}], [{"role": "user", "content": [1]}]]
)
def test_odd_messages_are_left_to_the_replica(messages: list[object]) -> None:
    """What has another shape than OpenAI's passes untouched."""
    found = take_out_flags(messages, most=MOST)
    assert found.messages is messages
    assert not found.edits


@given(st.lists(st.tuples(PROSE, st.none() | TAILS), min_size=1, max_size=5))
def test_a_conversations_prefix_stays_the_same(turns: list[tuple[str, str | None]]) -> None:
    """A message reads the same in its own turn and in every later one, so prefixes are found."""
    rules = FlagsConfig(unknown="ignore")
    messages: list[dict[str, str]] = []
    before: list[object] = []
    for text, tail in turns:
        messages.append({"role": "user", "content": text + (tail or "")})
        clean = cleaned(Query("m", {"messages": list(messages)}), rules).query.fields["messages"]
        assert isinstance(clean, list)
        assert clean[: len(before)] == before
        before = [*clean, {"role": "assistant", "content": "ok"}]
        messages.append({"role": "assistant", "content": "ok"})
