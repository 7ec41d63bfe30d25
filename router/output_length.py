"""How many tokens an answer will have, told before it is written.

The mean of the model's recent answers, as replicas reported them (all of the first 64, then about the
last 64 decide), but no more than the request allows (`max_completion_tokens`, `max_tokens`); times the choices it asks for.
Before any answer the mean is taken to be 256 tokens, which counts as one answer.
"""

from collections.abc import Mapping

START_TOKENS = 256.0
NUM_DECIDING = 64
MOST_TOKENS = 1_000_000
"""No model writes more: a report of more teaches nothing."""
MOST_MODELS = 10_000
"""Models and adapters that are remembered; the one learnt of first goes first."""
_START = (START_TOKENS, 1)


class OutputLengths:
    """Expects output tokens by model or adapter, and learns from what replicas report."""

    def __init__(self) -> None:
        self._means: dict[str, tuple[float, int]] = {}
        """Mean and number of answers in it, by name."""

    def expected(self, model: str, fields: Mapping[str, object]) -> int:
        """Return the output tokens of a request, at least 1."""
        mean, _ = self._means.get(model, _START)
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
        if output_tokens is None or not 0 <= output_tokens <= MOST_TOKENS:
            return
        if model not in self._means and len(self._means) >= MOST_MODELS:
            del self._means[next(iter(self._means))]
        mean, num_answers = self._means.get(model, _START)
        num_answers = min(num_answers + 1, NUM_DECIDING)
        self._means[model] = (mean + (output_tokens - mean) / num_answers, num_answers)
