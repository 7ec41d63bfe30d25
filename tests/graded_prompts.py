"""Made-up graded prompts of two kinds, each answered well by another model."""

import numpy as np

_WORDS = """
coder: write function returns list sorted integer python loop index array string
poet: poem river moon lovers autumn verse silver garden dream song night rose
"""
TOPICS = {
    model: words.split()
    for model, words in (line.split(":") for line in _WORDS.strip().split("\n"))
}
"""Model to words of the prompts it answers well."""


def graded_prompts(
    num_prompts: int, *, seed: int = 0, num_words: int = 8, error_fraction: float = 0.1
) -> list[dict[str, object]]:
    """Return records as `motley route train --data` reads them.

    `generalist` is right on six prompts of ten, whatever they are about.
    """
    generator = np.random.default_rng(seed)
    records: list[dict[str, object]] = []
    for _ in range(num_prompts):
        topic = str(generator.choice(list(TOPICS)))
        words = generator.choice(TOPICS[topic], num_words)
        flipped = generator.random(2) < error_fraction
        scores = {
            model: float((model == topic) != flip)
            for model, flip in zip(TOPICS, flipped, strict=True)
        }
        scores["generalist"] = float(generator.random() < 0.6)
        records.append({"question": " ".join(map(str, words)), "scores": scores})
    return records
