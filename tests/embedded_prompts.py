"""Made-up prompts whose words say nothing and whose embeddings tell their kinds apart."""

import random
from collections.abc import Sequence
from functools import cache
from typing import cast

import numpy as np
from numpy.typing import NDArray

from router.prediction.labelled import label_scores
from router.prediction.predictor import Predictor
from router.prediction.training import fit

KINDS = {
    "coder": ("array", "float", "input", "print", "slice", "yield"),
    "poet": ("river", "verse", "night", "bloom", "dream", "heart"),
}
"""Model to the words of the prompts it answers well, before they are disguised; all of one length."""
LENGTH = 6


def disguised_prompts(num_prompts: int, *, seed: int = 0) -> list[dict[str, object]]:
    """Return graded prompts in which every word has an ending of its own: none comes twice."""
    draw = random.Random(seed)
    records: list[dict[str, object]] = []
    for number in range(num_prompts):
        kind = list(KINDS)[number % 2]
        words = [f"{word}{_ending(draw)}" for word in draw.choices(KINDS[kind], k=6)]
        scores = {model: float(model == kind) for model in KINDS}
        records.append({"question": " ".join(words), "scores": scores})
    return records


def embedding_of(text: str) -> NDArray[np.float32]:
    """Return what a model that sees through the endings would: the share of each kind's stems.

    The rest of the vector is noise that is the same for the same text.
    """
    noise = np.random.default_rng(sum(text.encode())).standard_normal(LENGTH) * 0.1
    for place, stems in enumerate(KINDS.values()):
        noise[place] += sum(word.startswith(stems) for word in text.split()) / 6
    return noise.astype(np.float32)


def questions(records: Sequence[dict[str, object]]) -> list[str]:
    """Return the texts."""
    return [str(record["question"]) for record in records]


def _ending(draw: random.Random) -> str:
    return "".join(draw.choices("bcdfghjklmnpqrstvwxz", k=6))


@cache
def embedded_predictor() -> Predictor:
    """Return a predictor that tells the kinds apart by embeddings of `embedder` alone."""
    records = disguised_prompts(120)
    texts = questions(records)
    scores = [cast("dict[str, float]", record["scores"]) for record in records]
    embeddings = [embedding_of(text) for text in texts]
    return fit(label_scores(texts, scores).with_embeddings(embeddings, model="embedder"))
