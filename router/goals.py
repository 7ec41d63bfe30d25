"""What a client wants of the model besides a good answer: goals with weights, and a least quality.

A weight is the predicted loss one is willing to pay for going from the worst to the best eligible
model on that goal; `quality=x` keeps the models whose predicted quality is at least x. All carriers
share these words: a header and a configuration write them as they are, a text as flags
(`router.flags`).
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from router.errors import ParameterError

QUALITY = "quality"
"""The goal that is a filter; its value is required and stands for itself."""

_WEIGHT = re.compile(r"[0-9]+(?:\.[0-9]+)?", re.ASCII)
_ALIASES = {"latest": "newest"}


class Goal(StrEnum):
    """What can be preferred, at a price in predicted loss."""

    SMALLEST = "smallest"
    CHEAPEST = "cheapest"
    FASTEST = "fastest"
    NEWEST = "newest"
    MOST_SECURE = "most secure"
    SHORTEST = "shortest"
    MOST_READABLE = "most readable"


KNOWN = (*map(str, Goal), QUALITY)
_BY_NAME: Mapping[str, str] = {name: name for name in KNOWN} | _ALIASES


@dataclass(frozen=True, slots=True)
class Goals:
    """What one request asks for."""

    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Goal to weight; a goal that is not asked for is absent."""
    min_quality: float | None = None
    """The least predicted quality, from 0 to 1; None: any will do."""

    def written(self) -> dict[str, float]:
        """Return the goals as a carrier writes them, for logs."""
        least = {} if self.min_quality is None else {QUALITY: self.min_quality}
        return {**{str(name): weight for name, weight in self.weights.items()}, **least}


NO_GOALS = Goals()


@dataclass(frozen=True, slots=True)
class GoalRules:
    """What weights are allowed."""

    default_weight: float = 0.2
    """Of a goal without one."""
    max_weight: float = 1.0
    """Larger ones are clamped to it."""
    most: int = 8
    """Goals in one carrier; more are refused."""


def goal_named(text: str) -> str | None:
    """Return the goal a client's words name, or None: any case, `latest`, a last word `model`."""
    words = text.lower().split()
    if len(words) > 1 and words[-1] == "model":
        words.pop()
    return _BY_NAME.get(" ".join(words))


def weight_written(text: str) -> float | None:
    """Return a weight as the grammar writes it, digits and perhaps a fraction; None for others."""
    return float(text) if _WEIGHT.fullmatch(text) else None


def read_header(text: str, rules: GoalRules, *, carrier: str) -> Goals:
    """Return the goals of a line such as `cheapest=0.2, quality=0.8`; an empty one has none.

    Raises:
        ParameterError: If a goal is unknown, a weight is none, or there are too many.
    """
    pairs: list[tuple[str, object]] = []
    for part in text.split(",", rules.most + 1):
        name, equals, weight = (word.strip() for word in part.partition("="))
        if not part.strip():
            continue
        value = weight_written(weight) if equals else None
        if equals and value is None:
            raise ParameterError(carrier, f"{weight!r:.40} is no weight; write digits, such as 0.2")
        pairs.append((name, value))
    return make_goals(pairs, rules, carrier=carrier)


def read_value(value: object, rules: GoalRules, *, carrier: str) -> Goals:
    """Return the goals of a JSON value: an object of weights (null: the default), or such a line.

    Raises:
        ParameterError: If it is neither, or as for a line.
    """
    if isinstance(value, str):
        return read_header(value, rules, carrier=carrier)
    if not isinstance(value, Mapping):
        raise ParameterError(carrier, 'must be an object, such as {"cheapest": 0.2}')
    return make_goals(value.items(), rules, carrier=carrier)


def make_goals(pairs: Iterable[tuple[object, object]], rules: GoalRules, *, carrier: str) -> Goals:
    """Return the goals of name and weight (None: the default); the last of a name counts.

    Args:
        pairs: In the order they were written.
        rules: What weights are allowed.
        carrier: Where they stand, for messages.

    Raises:
        ParameterError: If a goal is unknown, a weight is negative or no number, or there are too many.
    """
    weights: dict[str, float] = {}
    min_quality = None
    for index, (name, weight) in enumerate(pairs):
        if index >= rules.most:
            raise ParameterError(carrier, f"more than {rules.most} goals; leave some out")
        goal = goal_named(name) if isinstance(name, str) else None
        if goal is None:
            raise ParameterError(
                carrier, f"{name!r:.40} names no goal; use one of: {', '.join(KNOWN)}"
            )
        if goal == QUALITY:
            min_quality = _quality(weight, carrier)
        else:
            value = rules.default_weight if weight is None else _number(weight, goal, carrier)
            weights[goal] = min(value, rules.max_weight)
    return Goals(MappingProxyType(weights), min_quality)


def _quality(value: object, carrier: str) -> float:
    quality = None if value is None else _number(value, QUALITY, carrier)
    if quality is None or quality > 1:
        raise ParameterError(carrier, "quality needs a number from 0 to 1; write quality=0.8")
    return quality


def _number(value: object, goal: str, carrier: str) -> float:
    """Return a finite number of at least 0; whole numbers may be larger than a float."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        if isinstance(value, int) and value > 1e9:
            return 1e9
        if value >= 0 and math.isfinite(value):
            return float(value)
    raise ParameterError(carrier, f"the weight of {goal} must be a finite number of at least 0")
