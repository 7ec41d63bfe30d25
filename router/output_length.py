"""How many tokens an answer will have, told before it is written.

The mean of the model's recent answers, as replicas reported them (about the last 64 decide), but no
more than the request allows (`max_completion_tokens`, `max_tokens`); times the choices it asks for.
Before any answer the mean is taken to be 256 tokens.
"""

from collections.abc import Mapping

START_TOKENS = 256.0
NEWEST_FRACTION = 1 / 64
MOST_MODELS = 10_000
"""Models and adapters that are remembered; the one learnt of first goes first."""


class OutputLengths:
    """Expects output tokens by model or adapter, and learns from what replicas report."""

    def __init__(self) -> None:
        self._means: dict[str, float] = {}

    def expected(self, model: str, fields: Mapping[str, object]) -> int:
        """Return the output tokens of a request, at least 1."""
        mean = self._means.get(model, START_TOKENS)
        for name in ("max_completion_tokens", "max_tokens"):
            limit = fields.get(name)
            if isinstance(limit, int) and limit < mean:
                mean = limit
        num_choices = fields.get("n")
        if isinstance(num_choices, int) and num_choices > 1:
            mean *= min(num_choices, 128)
        return max(1, round(mean))

    def learn(self, model: str, output_tokens: int | None) -> None:
        """Take note of what a replica counted; None where it did not say."""
        if output_tokens is None or output_tokens < 0:
            return
        mean = self._means.get(model)
        if mean is None:
            if len(self._means) >= MOST_MODELS:
                del self._means[next(iter(self._means))]
            mean = START_TOKENS
        self._means[model] = mean + NEWEST_FRACTION * (output_tokens - mean)
