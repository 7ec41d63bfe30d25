"""Quality against cost as the weight of the price rises: the front, its hull, AIQ, cost at parity.

Source: AIQ of Hu et al., RouterBench, arXiv 2403.12031; the rule for the weight is our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.prediction.metrics import Array, Picks, scores_of, standard_error

WEIGHTS: tuple[float, ...] = (0.0, *np.geomspace(0.004, 4.0, 60).round(5).tolist())
"""Of the price, in units of loss: from quality alone to price alone."""


@dataclass(frozen=True, slots=True)
class Point:
    """One weight's outcome over all prompts."""

    weight: float
    cost_usd: float
    """Mean cost of a prompt."""
    quality: float
    """Mean score."""
    top_tier_fraction: float = 0.0
    """Share of picks that are the dearest model: where it stays near 1, routing has collapsed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What picks are made from: predictions, costs, and when to leave them for the best single."""

    losses: Array
    """Predicted. Shape: (num_prompts, num_models)."""
    standard_errors: Array
    """Same shape."""
    costs_usd: Array
    """Same shape."""
    best_single: int
    """Position of the model that is best without looking at prompts."""
    margin: float
    """As of `objective.choose`."""


def scaled_rows(costs: Array) -> Array:
    """Return `objective.scale` of every row, for costs that are all known."""
    least = costs.min(axis=1, keepdims=True)
    spread = costs.max(axis=1, keepdims=True) - least
    return np.where(spread > 0, (costs - least) / np.where(spread > 0, spread, 1), 0.0)


def picks_at(standing: Standing, weight: float) -> Picks:
    """Return what `objective.choose` picks for every prompt; equal totals go to the cheaper."""
    totals = standing.losses + weight * scaled_rows(standing.costs_usd)
    lowest = totals.min(axis=1, keepdims=True)
    tied = np.where(totals <= lowest, standing.costs_usd, np.inf)
    picks: Picks = tied.argmin(axis=1)
    rows, single = np.arange(len(totals)), standing.best_single
    if standing.margin <= 0:
        return picks
    noise = np.hypot(standing.standard_errors[rows, picks], standing.standard_errors[:, single])
    lead = totals[:, single] - totals[rows, picks]
    return np.where(lead >= standing.margin * noise, picks, single)


def sweep(standing: Standing, scores: Array) -> list[Point]:
    """Return the outcome of every weight."""
    dearest = int(standing.costs_usd.mean(axis=0).argmax())
    points = []
    for weight in WEIGHTS:
        picks = picks_at(standing, weight)
        points.append(
            Point(
                weight,
                float(scores_of(standing.costs_usd, picks).mean()),
                float(scores_of(scores, picks).mean()),
                float((picks == dearest).mean()),
            )
        )
    return points


def parity_weight(standing: Standing, scores: Array) -> float:
    """Return the largest weight whose quality is still safely the best single model's.

    Safely: ahead of it by one standard error of the paired difference, on these prompts, which
    must be held out from the fit. Where no weight is, 0.
    """
    single = scores[:, standing.best_single]
    chosen = 0.0
    for weight in WEIGHTS:
        gains = scores_of(scores, picks_at(standing, weight)) - single
        if gains.mean() >= standard_error(gains):
            chosen = weight
    return chosen


def upper_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the non-decreasing upper convex hull of (cost, quality) points, by rising cost."""
    hull: list[tuple[float, float]] = []
    best = -np.inf
    for cost, quality in sorted(points, key=lambda one: (one[0], -one[1])):
        if quality <= best:
            continue
        best = quality
        while len(hull) >= 2 and _is_below(hull[-1], hull[-2], (cost, quality)):
            hull.pop()
        hull.append((cost, quality))
    return hull


def average_quality(points: Sequence[tuple[float, float]], *, most_cost: float) -> float:
    """Return AIQ: the area under the hull, flat from its end to `most_cost`, over `most_cost`.

    Nothing is counted below the cheapest point.
    """
    hull = [one for one in upper_hull(points) if one[0] <= most_cost]
    if not hull or most_cost <= 0:
        return 0.0
    hull.append((most_cost, hull[-1][1]))
    costs, qualities = (np.array(column) for column in zip(*hull, strict=True))
    return float(np.trapezoid(qualities, costs) / most_cost)


def _is_below(
    middle: tuple[float, float], left: tuple[float, float], right: tuple[float, float]
) -> bool:
    """Whether the middle point lies on or below the line between the two others."""
    rise = (right[1] - left[1]) * (middle[0] - left[0])
    return (middle[1] - left[1]) * (right[0] - left[0]) <= rise


def means_of(costs_usd: Array, scores: Array) -> list[tuple[float, float]]:
    """Return each single model's mean cost and score: the zero router's points."""
    columns: NDArray[np.float64] = np.stack((costs_usd.mean(axis=0), scores.mean(axis=0)), axis=1)
    return [(float(cost), float(quality)) for cost, quality in columns]
