"""Why a prompt goes where it goes: words that speak for the pick, predictions, terms, the reason."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.goal_costs import Expectation
from router.goals import Goals
from router.model_decision import QUALITY_UNMET, Outlook, Weighing, weigh
from router.objective import Choice, objective
from router.pool_choice import outlook_of
from router.prediction.cues import CUES
from router.prediction.features import HashedFeatures, grams_of, hash_text
from router.prediction.predictor import Prediction, Predictor


@dataclass(frozen=True, slots=True)
class Contribution:
    """A word, pair of words, cue or the embedding, and what it does to the pick's predicted loss."""

    name: str
    loss: float
    """Beside the mean over all models; below 0 speaks for the pick. The regression's half only."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision, taken apart."""

    prediction: Prediction
    """Of the models that are good enough."""
    choice: Choice
    """Among them."""
    best_single: str
    """The best of these when prompts are not looked at."""
    left_out: tuple[str, ...]
    """Models that are not as good as asked."""
    contributions: tuple[Contribution, ...]
    """The largest, first those that speak loudest."""

    @property
    def pick(self) -> str:
        """The model picked."""
        return self.prediction.models[self.choice.pick]


def explain(
    predictor: Predictor,
    text: str,
    *,
    expectations: Mapping[str, Expectation],
    goals: Goals,
    embedding: NDArray[np.float32] | None = None,
    num_contributions: int = 10,
) -> Explanation:
    """Decide about one prompt as the router does.

    Args:
        predictor: A fitted one.
        text: The prompt.
        expectations: The models to compare, which the predictor knows, the one to prefer first.
        goals: What is asked for.
        embedding: Of the prompt, for a predictor that looks at one.
        num_contributions: How many to tell.
    """
    models = tuple(expectations)
    columns = np.array([predictor.models.index(model) for model in models], dtype=np.intp)
    features = replace(hash_text(text), embedding=embedding)
    outlook = outlook_of(predictor, features, columns)
    weighing = weigh(outlook, list(expectations.values()), goals) or _unmet(outlook)
    kept = list(weighing.kept)
    prediction = Prediction(
        tuple(models[place] for place in kept),
        np.array(outlook.losses, np.float32)[kept],
        np.array(outlook.standard_errors, np.float32)[kept],
    )
    told = _contributions(predictor, text, features, int(columns[kept[weighing.choice.pick]]))
    loudest = sorted(told, key=lambda one: -abs(one.loss))[:num_contributions]
    return Explanation(
        prediction,
        weighing.choice,
        models[min(kept, key=lambda place: outlook.mean_losses[place])],
        tuple(model for place, model in enumerate(models) if place not in kept),
        tuple(loudest),
    )


def _unmet(outlook: Outlook) -> Weighing:
    """Return the comparison where no model is good enough: by what is predicted alone."""
    losses = outlook.losses
    order = sorted(range(len(losses)), key=lambda place: (losses[place], place))
    choice = Choice(tuple(order), QUALITY_UNMET, objective(losses, costs={}, weights={}))
    return Weighing(tuple(range(len(losses))), choice)


def _contributions(
    predictor: Predictor, text: str, features: HashedFeatures, model: int
) -> list[Contribution]:
    """Return what each bucket, each cue and the embedding do to the ridge's loss of `model`.

    Less what they do to the mean over all models.
    """
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
    begin = num_dimensions + len(CUES)
    cues = projection.cues(features) * predictor.settings.cue_weight
    told = words + [
        Contribution(f"({name.replace('_', ' ')})", float(loss))
        for name, loss in zip(CUES, cues * weights[num_dimensions:begin], strict=True)
    ]
    if predictor.embedding is not None:
        part = predictor.embedding.part(features.embedding) * predictor.settings.embedding_weight
        told.append(Contribution("(embedding)", float(part @ weights[begin:])))
    return told
