"""The two JSON shapes the models answer in: a job's finding, and the remote's verdict."""

import json
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from router.minions.json_text import NoObjectError, read_json_object

_NOTHING = frozenset(
    {"", "none", "null", "n/a", "na", "nothing", "unknown", "not found", "not mentioned"}
    | {"not available", "not specified", "not stated", "no answer", "no information"}
)
"""What small models write where they were asked for null."""


class ReplyProblemError(Exception):
    """A reply is not of its shape; the message goes back to the model."""


def _as_text(value: object) -> object:
    """Return numbers, lists and objects as their JSON: small models answer 42, not "42"."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _or_nothing(value: object) -> object:
    text = _as_text(value)
    if isinstance(text, str) and text.strip().strip(".").casefold() in _NOTHING:
        return None
    return text


Text = Annotated[str | None, BeforeValidator(_as_text)]
Found = Annotated[str | None, BeforeValidator(_or_nothing)]
"""None also where the text says that there is nothing."""


class _Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


Shape = TypeVar("Shape", bound=_Reply)


class Finding(_Reply):
    """What a job says of its chunk."""

    explanation: Text = None
    citation: Found = None
    answer: Found
    """None: the chunk does not hold it."""


class Verdict(_Reply):
    """What the remote says of the findings."""

    explanation: Text = None
    decision: Literal["final", "need_more"]
    answer: Text = None
    feedback: Text = None
    """What is missing."""
    scratchpad: Text = None
    """What the remote wants to read again next round."""


class Turn(_Reply):
    """What the remote says in the two-model chat."""

    explanation: Text = None
    decision: Literal["final", "need_more"]
    message: Text = None
    """The next message to the local model."""
    answer: Text = None


def _schema(*required: str, **properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


_TEXT = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_DECISION = {"enum": ["final", "need_more"]}

FINDING_SCHEMA = _schema(
    "explanation",
    "citation",
    "answer",
    explanation=_TEXT,
    citation=_TEXT_OR_NULL,
    answer=_TEXT_OR_NULL,
)
VERDICT_SCHEMA = _schema(
    "explanation",
    "decision",
    "answer",
    explanation=_TEXT,
    decision=_DECISION,
    answer=_TEXT_OR_NULL,
    feedback=_TEXT_OR_NULL,
    scratchpad=_TEXT_OR_NULL,
)
TURN_SCHEMA = _schema(
    "explanation",
    "decision",
    "message",
    "answer",
    explanation=_TEXT,
    decision=_DECISION,
    message=_TEXT_OR_NULL,
    answer=_TEXT_OR_NULL,
)


def read_finding(text: str) -> Finding:
    """Return a job's finding.

    Raises:
        ReplyProblemError: If the reply has none.
    """
    return _read(Finding, text)


def read_verdict(text: str) -> Verdict:
    """Return the remote's verdict.

    Raises:
        ReplyProblemError: If the reply has none.
    """
    verdict = _read(Verdict, text)
    if verdict.decision == "final" and not verdict.answer:
        raise ReplyProblemError("answer: is required where decision is final")
    return verdict


def read_turn(text: str) -> Turn:
    """Return the remote's turn of the chat.

    Raises:
        ReplyProblemError: If the reply has none.
    """
    turn = _read(Turn, text)
    if turn.decision == "final" and not turn.answer:
        raise ReplyProblemError("answer: is required where decision is final")
    if turn.decision == "need_more" and not turn.message and not turn.answer:
        raise ReplyProblemError("message: is required where decision is need_more")
    return turn


def _read(shape: type[Shape], text: str) -> Shape:
    try:
        return shape.model_validate(read_json_object(text))
    except NoObjectError as error:
        raise ReplyProblemError(str(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the object"
        raise ReplyProblemError(f"{where}: {first['msg']}") from None
