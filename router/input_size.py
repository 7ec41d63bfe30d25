"""How many tokens a request's input has, told before any tokenizer has seen it.

The router loads no tokenizer. It counts the UTF-8 bytes of the prompt, or of the messages and tools,
and multiplies by the model's tokens a byte: a quarter at first, then the ratio of the sums over
recent answers, whose `usage` says what the replica counted. What a chat template adds is part of the
ratio. A prompt of token ids is counted exactly. Images and audio are not counted, though `usage`
counts them: from a body that holds any, nothing is learnt.
"""

from collections.abc import Iterable

from router.base import Query

START_TOKENS_PER_BYTE = 0.25
"""Before any answer: English text has about four bytes a token."""
START_BYTES = 1024.0
"""How much text the start value counts for."""
KEPT_FRACTION = 1 - 1 / 256
"""What is left of older answers when one comes in: about the last 256 decide."""


class InputSizes:
    """Estimates input tokens for some models, and learns from the counts that replicas report."""

    def __init__(self, models: Iterable[str]) -> None:
        """Estimate for `models`; what is told of others is ignored."""
        self._ratios: dict[str, _Ratio] = {}
        self.configure(models)

    def configure(self, models: Iterable[str]) -> None:
        """Estimate for `models` from now on; what has been learnt of them is kept."""
        known = self._ratios
        self._ratios = {model: known.get(model) or _Ratio() for model in models}

    @property
    def tokens_per_byte(self) -> dict[str, float]:
        """The current ratio of each model."""
        return {model: ratio.tokens_per_byte for model, ratio in self._ratios.items()}

    def estimate(self, query: Query) -> int:
        """Return the input tokens of a request, at least 1; other models' are four bytes each."""
        size = query.prompt.size
        ratio = self._ratios.get(query.model)
        rate = START_TOKENS_PER_BYTE if ratio is None else ratio.tokens_per_byte
        return max(1, size.id_tokens + round(size.text_bytes * rate))

    def learn(self, query: Query, prompt_tokens: int | None) -> None:
        """Take note of what a replica counted; None where it did not say.

        Only bodies that are text and nothing else teach: the rest of the count is not text's.
        """
        ratio = self._ratios.get(query.model)
        if ratio is None or not prompt_tokens or prompt_tokens < 0:
            return
        size = query.prompt.size
        if size.text_bytes and size.is_all_text and not size.id_tokens:
            ratio.add(size.text_bytes, prompt_tokens)


class _Ratio:
    """Sums of tokens and bytes over recent answers."""

    __slots__ = ("_bytes", "_tokens")

    def __init__(self) -> None:
        self._bytes = START_BYTES
        self._tokens = START_BYTES * START_TOKENS_PER_BYTE

    @property
    def tokens_per_byte(self) -> float:
        return self._tokens / self._bytes

    def add(self, text_bytes: int, tokens: int) -> None:
        self._bytes = self._bytes * KEPT_FRACTION + text_bytes
        self._tokens = self._tokens * KEPT_FRACTION + tokens
