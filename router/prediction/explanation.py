"""Why a prompt goes where it goes: words that speak for the pick, predictions, terms, the reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from router.objective import Choice, choose, objective
from router.prediction.cues import CUES
from router.prediction.features import grams_of, hash_text
from router.prediction.predictor import Prediction, Predictor


@dataclass(frozen=True, slots=True)
class Contribution:
    """One word, pair of words or cue, and what it does to the pick's predicted loss."""

    name: str
    loss: float
    """Beside the mean over all models; below 0 speaks for the pick. The regression's half only."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision, taken apart."""

    prediction: Prediction
    choice: Choice
    contributions: tuple[Contribution, ...]
    """The largest, first those that speak loudest."""


def explain(
    predictor: Predictor,
    text: str,
    *,
    costs: Mapping[str, Sequence[float]],
    weights: Mapping[str, float],
    num_contributions: int = 10,
) -> Explanation:
    """Decide about one prompt as the router does, over all the predictor's models.

    Args:
        predictor: A fitted one.
        text: The prompt.
        costs: Goal to each model's raw cost, in the predictor's order.
        weights: Goal to its weight.
        num_contributions: How many to tell.
    """
    prediction = predictor.predict(text)
    choice = choose(
        objective(prediction.losses.tolist(), costs=costs, weights=weights),
        standard_errors=prediction.standard_errors.tolist(),
        best_single=predictor.best_single,
        margin=predictor.settings.abstain_margin,
        tie_break=next(iter(costs.values()), ()),
    )
    told = _contributions(predictor, text, choice.pick)
    loudest = sorted(told, key=lambda one: -abs(one.loss))[:num_contributions]
    return Explanation(prediction, choice, tuple(loudest))


def _contributions(predictor: Predictor, text: str, model: int) -> list[Contribution]:
    """Return each bucket's and each cue's part in the ridge's loss of `model`, less the mean's."""
    features = hash_text(text)
    weights = predictor.ridge.weights[:, model] - predictor.ridge.weights.mean(axis=1)
    num_dimensions = predictor.settings.num_dimensions
    projection = predictor.projection
    rows = projection.rows[features.indices]
    known = rows >= 0
    values = features.values[known] * projection.bucket_weights[rows[known]]
    length = float(np.sqrt(values @ values)) or 1.0
    lexical = (
        values
        * (projection.scale / length)
        * (projection.components[rows[known]] @ weights[:num_dimensions])
    )
    names: dict[int, list[str]] = {}
    for name, bucket, _ in grams_of(text):
        if name not in names.setdefault(bucket, []):
            names[bucket].append(name)
    words = [
        Contribution(" | ".join(names[int(bucket)]), float(loss))
        for bucket, loss in zip(features.indices[known], lexical, strict=True)
    ]
    cues = projection.cues(features) * predictor.settings.cue_weight * weights[num_dimensions:]
    return words + [
        Contribution(f"({name.replace('_', ' ')})", float(loss))
        for name, loss in zip(CUES, cues, strict=True)
    ]
