"""How long one decision takes: features, prediction, objective, pick."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from router.objective import choose, objective
from router.prediction.predictor import Predictor

LENGTHS = (100, 1_000, 10_000)
"""Characters of the prompts that are timed; 10,000 are some 2,500 tokens."""


@dataclass(frozen=True, slots=True)
class DecisionTime:
    """Percentiles over many decisions about prompts of one length, in one thread."""

    num_characters: int
    median_seconds: float
    p99_seconds: float


def time_decisions(
    predictor: Predictor,
    texts: Sequence[str],
    *,
    clock: Callable[[], float],
    num_decisions: int = 400,
) -> list[DecisionTime]:
    """Time decisions about prompts of each length, cut from the texts put end to end.

    Args:
        predictor: A fitted one.
        texts: Real prompts.
        clock: Seconds; a processor clock leaves out what other programs take.
        num_decisions: For each length, every one about another prompt.
    """
    return [
        _percentiles(
            [
                _one_decision(predictor, text, clock)
                for text in _cut(texts, length=length, num_pieces=num_decisions)
            ],
            length,
        )
        for length in LENGTHS
    ]


def _one_decision(predictor: Predictor, text: str, clock: Callable[[], float]) -> float:
    begin = clock()
    prediction = predictor.predict(text)
    losses = prediction.losses.tolist()
    prices = list(range(len(losses)))
    choose(
        objective(losses, costs={"cheapest": prices}, weights={"cheapest": 0.1}),
        standard_errors=prediction.standard_errors.tolist(),
        best_single=predictor.best_single,
        margin=predictor.settings.abstain_margin,
    )
    return clock() - begin


def _cut(texts: Sequence[str], *, length: int, num_pieces: int) -> list[str]:
    """Return pieces of one length, spread over the texts."""
    whole = "\n".join(texts)
    whole *= 1 + 2 * length // max(len(whole), 1)
    starts = np.linspace(0, len(whole) - length, num_pieces).astype(int)
    return [whole[start : start + length] for start in starts]


def _percentiles(seconds: list[float], num_characters: int) -> DecisionTime:
    median, high = np.quantile(seconds, (0.5, 0.99))
    return DecisionTime(num_characters, float(median), float(high))
