"""Where a request's goals come from: the first of four carriers that has any decides alone.

1. The header `x-motley-goals: cheapest=0.2, quality=0.8`; an empty one asks for nothing.
2. The body's field `motley`, which goes no further: `{"goals": {"cheapest": 0.2}}`, a weight of null
   being the default, or `{"goals": "cheapest=0.2"}`.
3. Flags at the end of the last user message, where the configuration lets texts carry them.
4. The configuration.

The first two are safe: no quoted document can write them. A carrier that is not asked is not judged.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from router.choice_config import FlagsConfig
from router.errors import ParameterError
from router.flags import Tail
from router.goals import Goals, make_goals, read_header, read_value

HEADER = "x-motley-goals"
FIELD = "motley"
_KEY = "goals"
_HEADER_BYTES = HEADER.encode()
_TEXT = "messages"

Carrier = Literal["header", "field", "text", "config"]


@dataclass(frozen=True, slots=True)
class Asked:
    """The goals of one request."""

    goals: Goals
    carrier: Carrier


def asked_goals(
    headers: Iterable[tuple[bytes, bytes]],
    fields: Mapping[str, object],
    tail: Tail,
    flags: FlagsConfig,
    default: Goals,
) -> Asked:
    """Return the goals of a request to a pool, and who carried them.

    Args:
        headers: Of the request, names in lower case; a repeated one is read as one line.
        fields: The parsed body.
        tail: Of the last user message.
        flags: What clients may ask for.
        default: Of requests that carry none.

    Raises:
        ParameterError: If the carrier that decides asks for what is no goal.
        ParameterError: If the body's field has another shape.
    """
    lines = [value.decode("latin-1") for name, value in headers if name == _HEADER_BYTES]
    if lines:
        return Asked(read_header(",".join(lines), flags.rules, carrier=HEADER), "header")
    options = fields.get(FIELD)
    if options is not None:
        if not isinstance(options, Mapping) or options.keys() - {_KEY}:
            raise ParameterError(FIELD, 'must be an object with "goals" and nothing else')
        if options.get(_KEY) is not None:
            goals = read_value(options[_KEY], flags.rules, carrier=f"{FIELD}.{_KEY}")
            return Asked(goals, "field")
    if flags.in_text:
        _judge(tail, flags)
        if tail.flags:
            goals = make_goals(tail.flags, flags.rules, carrier=_TEXT)
            return Asked(goals, "text")
    return Asked(default, "config")


def _judge(tail: Tail, flags: FlagsConfig) -> None:
    """Refuse a tail that asks for what it may not; what stood in the prompt is not repeated."""
    if tail.problem == "many":
        raise ParameterError(_TEXT, f"more than {flags.most} flags at the end; leave some out")
    if tail.problem == "weight":
        raise ParameterError(
            _TEXT, "the weight of a flag at the end is none; write digits, such as 0.2"
        )
    if tail.problem == "unknown" and flags.unknown == "refuse":
        raise ParameterError(_TEXT, "a flag at the end names no goal; correct it or take it out")
