"""Which model a request goes to: predicted loss plus what the goals cost.

    pick = argmin over eligible models of  loss + sum over goals of weight * constraint

Losses lie in [0, 1] for graded answers (1 minus the score); other losses, such as nats a token, work
alike. Each goal's constraint is scaled to [0, 1] over the models still *eligible* for the request, so
a weight is the loss one is willing to pay for going from the worst to the best of them on that goal.

Source: Hari & Thomson, Tryage, arXiv 2308.11601 (routing objective); the scaling is our own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BEST_PREDICTED = "best_predicted"
"""The model with the lowest objective."""
ABSTAINED = "abstained"
"""The lowest objective is ahead of the best single model's by less than the noise."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The terms of each model's objective; lower is better. Every tuple is in the models' order."""

    losses: tuple[float, ...]
    """Predicted losses."""
    terms: Mapping[str, tuple[float, ...]]
    """Goal to weight times scaled constraint."""
    totals: tuple[float, ...]
    """Losses plus all terms."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An order of the eligible models, and why the first one is first."""

    order: tuple[int, ...]
    """Positions of the models, the pick first, then the fallbacks."""
    reason: str
    """`BEST_PREDICTED` or `ABSTAINED`."""
    objective: Objective
    """What it rests on."""

    @property
    def pick(self) -> int:
        """The position of the model picked."""
        return self.order[0]


def scale(costs: Sequence[float]) -> tuple[float, ...]:
    """Return costs scaled to [0, 1] over the eligible models, 0 the best.

    Equal costs are all 0, so a library of one model has no constraint. A cost that is not known
    (NaN) or not finite counts as the worst: what nobody has stated wins nothing. Where no cost is
    known, all are 0.
    """
    known = [cost for cost in costs if math.isfinite(cost)]
    if not known:
        return (0.0,) * len(costs)
    least, most = min(known), max(known)
    spread = most - least
    if not spread:
        return tuple(0.0 if math.isfinite(cost) else 1.0 for cost in costs)
    return tuple((cost - least) / spread if math.isfinite(cost) else 1.0 for cost in costs)


def objective(
    losses: Sequence[float],
    *,
    costs: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
) -> Objective:
    """Return each eligible model's predicted loss plus weighted constraints.

    Args:
        losses: Predicted loss of each eligible model.
        costs: Goal to each model's raw cost, smaller is better, in any one unit; NaN is unknown.
        weights: Goal to its weight, at least 0, in units of loss. Goals of weight 0 cost nothing.

    Raises:
        KeyError: If a goal with a weight has no costs.
        ValueError: If a weight is negative or not finite, or the lengths differ.
    """
    terms: dict[str, tuple[float, ...]] = {}
    for goal, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{goal}: weight {weight} is not a number from 0 up")
        if weight:
            terms[goal] = tuple(weight * one for one in scale(costs[goal]))
    totals = list(losses)
    for term in terms.values():
        totals = [total + part for total, part in zip(totals, term, strict=True)]
    return Objective(tuple(losses), terms, tuple(totals))


def choose(
    terms: Objective,
    *,
    standard_errors: Sequence[float],
    best_single: int | None,
    margin: float = 0.0,
    tie_break: Sequence[float] = (),
) -> Choice:
    """Return the order in which the models should be tried.

    The lowest total comes first. If its lead over the best single model is smaller than `margin`
    times the noise of that difference, the best single model is put first instead.

    Args:
        terms: The objective of the eligible models, at least one.
        standard_errors: Of each model's predicted loss.
        best_single: Position of the model that is best without looking at prompts; None where it is
            not eligible, and then nothing is abstained from.
        margin: Standard errors that a lead must have; 0 never abstains.
        tie_break: Decides between equal totals, the lower first, such as the price; then position.
    """
    totals = terms.totals
    second = tie_break or (0.0,) * len(totals)
    order = sorted(range(len(totals)), key=lambda one: (totals[one], second[one], one))
    pick = order[0]
    if best_single is None or pick == best_single or margin <= 0:
        return Choice(tuple(order), BEST_PREDICTED, terms)
    noise = math.hypot(standard_errors[pick], standard_errors[best_single])
    if totals[best_single] - totals[pick] >= margin * noise:
        return Choice(tuple(order), BEST_PREDICTED, terms)
    order.remove(best_single)
    return Choice((best_single, *order), ABSTAINED, terms)
