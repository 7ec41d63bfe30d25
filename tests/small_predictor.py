"""A predictor of two models, one good at code and one at poems, fitted in a second."""

import random
from functools import cache

from router.prediction.labelled import label_scores
from router.prediction.predictor import Predictor
from router.prediction.training import fit

CODE = [
    "write",
    "a",
    "python",
    "function",
    "that",
    "returns",
    "the",
    "sum",
    "of",
    "a",
    "list",
    "of",
    "integers",
    "sorted",
    "by",
    "index",
]
POEM = [
    "write",
    "a",
    "tender",
    "poem",
    "about",
    "the",
    "autumn",
    "moon",
    "over",
    "silent",
    "rivers",
    "and",
    "longing",
    "hearts",
]
CODE_PROMPT = "python function: sum of the sorted list of integers by index"
POEM_PROMPT = "a tender poem on the silent autumn moon and longing rivers"
NUM_PROMPTS = 120


@cache
def small_predictor() -> Predictor:
    """Return the predictor; its models are `coder` and `poet`."""
    draw = random.Random(7)
    texts, scores = [], []
    for number in range(NUM_PROMPTS):
        is_code = number % 2 == 0
        words = CODE if is_code else POEM
        texts.append(" ".join(draw.choices(words, k=12)))
        scores.append({"coder": float(is_code), "poet": float(not is_code)})
    return fit(label_scores(texts, scores))
