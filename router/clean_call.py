"""A request without what is meant for the router alone: flags in user messages, the field `motley`.

Nothing behind this module sees them: no replica, no prefix hash, no predictor and no log.
"""

from dataclasses import dataclass, replace

from router.base import Query
from router.body_edit import REMOVED, Edits, edited
from router.call import Call
from router.choice_config import FlagsConfig
from router.flags import Tail, take_out_flags
from router.goal_carriers import FIELD

_NO_TAIL = Tail("")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What is left of a body."""

    query: Query
    """The request without flags and field."""
    edits: dict[str | int, Edits | str | None]
    """How its bytes come to be the same."""
    tail: Tail
    """The flags of the last user message."""

    @property
    def has_flags(self) -> bool:
        """Whether any message had a tail."""
        return "messages" in self.edits


def cleaned(query: Query, flags: FlagsConfig) -> Cleaned:
    """Return a request without flags, where texts may carry them, and without the field.

    A completion's `prompt` has no roles, so its end may be anybody's text: it is left alone.
    """
    edits: dict[str | int, Edits | str | None] = {}
    tail = _NO_TAIL
    messages = query.fields.get("messages")
    if flags.in_text and isinstance(messages, list):
        unflagged = take_out_flags(messages, most=flags.most)
        tail = unflagged.tail
        if unflagged.edits:
            edits["messages"] = unflagged.edits
            fields = {**query.fields, "messages": unflagged.messages}
            query = replace(query, fields=fields, known_prompt=None)
    if FIELD in query.fields:
        edits[FIELD] = REMOVED
        fields = {name: value for name, value in query.fields.items() if name != FIELD}
        query = replace(query, fields=fields)
    return Cleaned(query, edits, tail)


def clean_call(call: Call, clean: Cleaned, *, model: str | None = None) -> Call:
    """Return `call` with the edits made, and `model` in place of the name it carries.

    Every byte that no edit concerns stays as the client sent it.
    """
    edits, query = clean.edits, clean.query
    if model is not None:
        edits = {**edits, "model": model}
        query = replace(query, model=model, fields={**query.fields, "model": model})
    if not edits:
        return call
    body = edited(call.body.decode("utf-8"), edits).encode("utf-8")
    return replace(call, body=body, query=query)
