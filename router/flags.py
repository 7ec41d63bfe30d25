"""Goals at the end of a text: `How do I sort this? [Flag: cheapest] [Flag: quality=0.8]`.

    tail   = { ws , flag } , [ ws ]
    flag   = "[" , "Flag:" , [ ws ] , goal , [ "=" , weight ] , "]"
    goal   = those of router.goals, in any case, with an optional last word "model"
    weight = digits , [ "." , digits ]

A flag is an instruction in untrusted text. So flags count only at the end of the last message of
role `user`, in its last text part, and only where the configuration lets texts carry them; a flag in
the middle is text like any other. The whole tail is taken out before the request is forwarded,
hashed, logged or predicted from. Tails of earlier user messages are taken out too, unheard: the same
message must read the same in every turn, or no prefix cache finds it again. A tail of more flags than
are allowed is refused in the last message and left as it is in earlier ones.

The scan goes from the end: white space, then at most `MOST_FLAG_CHARACTERS` up to a bracket, and so
on for at most one flag more than are allowed. What stands before the tail is not looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from router.body_edit import Edits
from router.goals import QUALITY, goal_named, weight_written

MOST_FLAG_CHARACTERS = 80
"""Of one flag, brackets included; a longer one is text."""
_MARK = "flag:"


@dataclass(frozen=True, slots=True)
class Tail:
    """The flags at the end of a text."""

    text: str
    """The text without them, and without the white space around them; where there is none, or there
    are too many, the text as it was."""
    flags: tuple[tuple[str, float | None], ...] = ()
    """Goal and weight (None: none was written), in the order of the text."""
    problem: Literal["unknown", "weight", "many"] | None = None
    """What the scan stopped at: a flag of an unknown goal, one whose weight is none, or more flags
    than are allowed."""


@dataclass(frozen=True, slots=True)
class Unflagged:
    """The messages of a request without their tails."""

    messages: Sequence[object]
    """As they were where there was nothing to take out."""
    edits: Edits
    """How to take the tails out of the body, below `messages`."""
    tail: Tail
    """That of the last user message."""


def read_tail(text: str, *, most: int) -> Tail:
    """Return the flags at the end of `text`, and what is left of it.

    Args:
        text: Of a user.
        most: Flags allowed.
    """
    rest = text.rstrip()
    flags: list[tuple[str, float | None]] = []
    problem: Literal["unknown", "weight", "many"] | None = None
    while rest.endswith("]"):
        start = rest.rfind("[", -MOST_FLAG_CHARACTERS)
        inside = rest[start + 1 : -1] if start >= 0 else ""
        if inside[: len(_MARK)].lower() != _MARK:
            break
        name, equals, written = inside[len(_MARK) :].partition("=")
        goal, weight = goal_named(name), weight_written(written.strip())
        if goal is None:
            problem = "unknown"
        elif (equals and weight is None) or (goal == QUALITY and (weight is None or weight > 1)):
            problem = "weight"
        elif len(flags) == most:
            problem = "many"
        if problem is not None or goal is None:
            break
        flags.append((goal, weight))
        rest = rest[:start].rstrip()
    if problem == "many" or not flags:
        return Tail(text, problem=problem)
    return Tail(rest, tuple(reversed(flags)), problem)


def take_out_flags(messages: Sequence[object], *, most: int) -> Unflagged:
    """Return messages without the tails of those whose role is `user`; none is changed in place.

    Args:
        messages: Of a chat; what has another shape than OpenAI's is left as it is.
        most: Flags allowed in one tail.
    """
    kept = list(messages)
    edits: dict[str | int, Edits | str | None] = {}
    last = Tail("")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or message.get("role") != "user":
            continue
        content = message.get("content")
        place = _last_text_part(content)
        text = content if isinstance(content, str) else _text_at(content, place)
        last = read_tail(text, most=most)
        if not last.flags:
            continue
        if place is None:
            kept[index] = {**message, "content": last.text}
            edits[index] = {"content": last.text}
        else:
            assert isinstance(content, list)
            parts = [*content]
            parts[place] = {**content[place], "text": last.text}
            kept[index] = {**message, "content": parts}
            edits[index] = {"content": {place: {"text": last.text}}}
    return Unflagged(kept if edits else messages, edits, last)


def _last_text_part(content: object) -> int | None:
    """Return the place of the last part with text; None where the content has no parts."""
    if not isinstance(content, list):
        return None
    places = range(len(content) - 1, -1, -1)
    return next((place for place in places if _text_at(content, place)), None)


def _text_at(content: object, place: int | None) -> str:
    part = content[place] if isinstance(content, list) and place is not None else None
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else ""
