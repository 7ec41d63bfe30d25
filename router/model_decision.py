"""One decision among the eligible models of a pool: pure, from values to an order and a reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from router import objective
from router.goal_costs import Expectation, costs_of, price_usd
from router.goals import Goals

FIRST_LISTED = "first_listed"
"""Nothing is predicted and no goal asked: the pool's order decides."""
BY_GOALS = "by_goals"
"""Nothing is predicted: the goals decide, then the pool's order."""
PREDICTOR_FAILED = "predictor_failed"
"""The predictor raised an error: the best single model."""
QUALITY_UNMET = "quality_unmet"
"""No model is predicted to be as good as asked: the best predicted one."""
EXPLORED = "explored"
"""Drawn at random, so that every model gets graded."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is predicted of the eligible models, each tuple in their order."""

    losses: tuple[float, ...]
    standard_errors: tuple[float, ...]
    mean_losses: tuple[float, ...]
    """Over all prompts: the least is the best single model's."""
    margin: float = 0.0
    """Standard errors by which a pick must lead the best single model."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The eligible models in the order in which they are to be tried."""

    order: tuple[int, ...]
    reason: str
    propensity: float = 1.0
    """How likely this pick was."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """How the models that are good enough compare."""

    kept: tuple[int, ...]
    """They, among the eligible ones."""
    choice: objective.Choice
    """Positions in it count among those that are kept."""


def decide(outlook: Outlook | None, expectations: Sequence[Expectation], goals: Goals) -> Decision:
    """Return the decision by prediction and goals; at least one model is eligible.

    Args:
        outlook: What is predicted; None: nothing.
        expectations: Of each eligible model.
        goals: A least quality is a filter, and without a prediction not met by anyone.
    """
    places = range(len(expectations))
    if outlook is None:
        order = _by_goals([0.0] * len(places), expectations, goals)
        if goals.min_quality is not None:
            return Decision(order, QUALITY_UNMET)
        return Decision(order, BY_GOALS if any(goals.weights.values()) else FIRST_LISTED)
    by_loss = sorted(places, key=lambda place: (outlook.losses[place], place))
    weighing = weigh(outlook, expectations, goals)
    if weighing is None:
        return Decision(tuple(by_loss), QUALITY_UNMET)
    order = tuple(weighing.kept[one] for one in weighing.choice.order)
    rest = tuple(place for place in by_loss if place not in order)
    return Decision(order + rest, weighing.choice.reason)


def weigh(outlook: Outlook, expectations: Sequence[Expectation], goals: Goals) -> Weighing | None:
    """Return how the models that are good enough compare; None: no model is."""
    kept = [place for place in range(len(expectations)) if _is_good(outlook.losses[place], goals)]
    if not kept:
        return None
    choice = objective.choose(
        objective.objective(
            [outlook.losses[place] for place in kept],
            costs=costs_of(goals.weights, [expectations[place] for place in kept]),
            weights=goals.weights,
        ),
        standard_errors=[outlook.standard_errors[place] for place in kept],
        best_single=min(range(len(kept)), key=lambda one: outlook.mean_losses[kept[one]]),
        margin=outlook.margin,
        tie_break=[_known(price_usd(expectations[place])) for place in kept],
    )
    return Weighing(tuple(kept), choice)


def best_single(mean_losses: Sequence[float]) -> Decision:
    """Return the decision where the predictor failed: by what is known without the prompt."""
    order = sorted(range(len(mean_losses)), key=lambda place: (mean_losses[place], place))
    return Decision(tuple(order), PREDICTOR_FAILED)


def explore(decision: Decision, *, fraction: float, draw: float) -> Decision:
    """Return the decision, or with probability `fraction` one of its models drawn at random.

    Args:
        decision: What would be picked.
        fraction: Of requests that explore; 0 changes nothing.
        draw: Uniform in [0, 1).
    """
    if not fraction:
        return decision
    num_models = len(decision.order)
    share = fraction / num_models
    if draw >= fraction:
        return Decision(decision.order, decision.reason, 1 - fraction + share)
    drawn = decision.order[min(int(draw / share), num_models - 1)]
    rest = tuple(place for place in decision.order if place != drawn)
    propensity = share + (1 - fraction if drawn == decision.order[0] else 0.0)
    return Decision((drawn, *rest), EXPLORED, propensity)


def _by_goals(
    losses: Sequence[float], expectations: Sequence[Expectation], goals: Goals
) -> tuple[int, ...]:
    costs = costs_of(goals.weights, expectations)
    totals = objective.objective(losses, costs=costs, weights=goals.weights).totals
    return tuple(sorted(range(len(totals)), key=lambda place: (totals[place], place)))


def _is_good(loss: float, goals: Goals) -> bool:
    return goals.min_quality is None or 1 - loss >= goals.min_quality


def _known(price: float) -> float:
    return price if math.isfinite(price) else math.inf
