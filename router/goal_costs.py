"""What each goal costs with each model: raw numbers in any unit, smaller is better.

`router.objective` scales them over the models that are compared. What is not known is NaN and counts
as the worst there; a speed not measured lately counts as the best one measured, or else a model that
was slow once would never be asked, and so never be measured, again.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from router.facts import ModelFacts
from router.goals import Goal


@dataclass(frozen=True, slots=True)
class Expectation:
    """One model, and what this request would be with it."""

    facts: ModelFacts
    prompt_tokens: int
    """Estimated."""
    output_tokens: float
    """Estimated."""
    mean_output_tokens: float | None
    """Of its answers in general; None: not known."""
    seconds: float | None
    """Until the end of the answer, by its replicas' latest figures; None: not measured lately."""


def price_usd(one: Expectation) -> float:
    """Return what the request would cost, or NaN where a price is not known."""
    price_in, price_out = (
        one.facts.price_input_usd_per_million,
        one.facts.price_output_usd_per_million,
    )
    if price_in is None or price_out is None:
        return math.nan
    return (price_in * one.prompt_tokens + price_out * one.output_tokens) / 1e6


def _smallest(one: Expectation) -> float:
    count = one.facts.active_parameters or one.facts.parameters
    return math.nan if count is None else math.log(count)


def _newest(one: Expectation) -> float:
    # Ages differ as the days of release do, whatever day it is.
    return math.nan if one.facts.released is None else -float(one.facts.released.toordinal())


def _most_secure(one: Expectation) -> float:
    return 0.0 if one.facts.is_local else 1.0


def _shortest(one: Expectation) -> float:
    return math.nan if one.mean_output_tokens is None else one.mean_output_tokens


def _most_readable(one: Expectation) -> float:
    return math.nan if one.facts.readability is None else 1 - one.facts.readability


def _fastest(one: Expectation) -> float:
    return math.nan if one.seconds is None else one.seconds


COSTS: Mapping[str, Callable[[Expectation], float]] = {
    Goal.SMALLEST: _smallest,
    Goal.CHEAPEST: price_usd,
    Goal.FASTEST: _fastest,
    Goal.NEWEST: _newest,
    Goal.MOST_SECURE: _most_secure,
    Goal.SHORTEST: _shortest,
    Goal.MOST_READABLE: _most_readable,
}
"""Goal to the cost of one model."""


def costs_of(
    goals: Mapping[str, float], expectations: Sequence[Expectation]
) -> dict[str, list[float]]:
    """Return each goal's cost with each of the models compared, in their order."""
    costs = {goal: [COSTS[goal](one) for one in expectations] for goal in goals}
    if Goal.FASTEST in costs:
        known = [cost for cost in costs[Goal.FASTEST] if math.isfinite(cost)]
        best = min(known, default=math.nan)
        costs[Goal.FASTEST] = [
            cost if math.isfinite(cost) else best for cost in costs[Goal.FASTEST]
        ]
    return costs
