"""How many tokens a request's input has, told before any tokenizer has seen it.

The router loads no tokenizer. It counts the UTF-8 bytes of the prompt, or of the messages and tools,
and multiplies by the model's tokens a byte: a quarter at first, then the ratio of the sums over
recent answers, whose `usage` says what the replica counted. What a chat template adds is part of the
ratio. A prompt of token ids is counted exactly. Images and audio are not counted, though `usage`
counts them: from a body that holds any, nothing is learnt.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from router.base import Query

START_TOKENS_PER_BYTE = 0.25
"""Before any answer: English text has about four bytes a token."""
START_BYTES = 1024.0
"""How much text the start value counts for."""
KEPT_FRACTION = 1 - 1 / 256
"""What is left of older answers when one comes in: about the last 256 decide."""


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What can be counted of an input without a tokenizer."""

    text_bytes: int
    """Of text, in UTF-8."""
    id_tokens: int
    """Of a prompt that came as token ids."""
    is_all_text: bool = True
    """False: some part of a message is no text and stands in neither count."""


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
        """Return the input tokens of a request, at least 1; of other models by the start value."""
        size = prompt_size(query.fields)
        ratio = self._ratios.get(query.model)
        per_byte = START_TOKENS_PER_BYTE if ratio is None else ratio.tokens_per_byte
        tokens = size.text_bytes * per_byte
        return max(1, size.id_tokens + round(tokens))

    def learn(self, query: Query, prompt_tokens: int | None) -> None:
        """Take note of what a replica counted; None where it did not say.

        Only bodies that are text and nothing else teach: the rest of the count is not text's.
        """
        ratio = self._ratios.get(query.model)
        if ratio is None or not prompt_tokens or prompt_tokens < 0:
            return
        size = prompt_size(query.fields)
        if size.text_bytes and size.is_all_text and not size.id_tokens:
            ratio.add(size.text_bytes, prompt_tokens)


def prompt_size(fields: Mapping[str, object]) -> PromptSize:
    """Return the size of a body's `prompt`, or of its `messages` and `tools`.

    Fields of another shape than OpenAI's count as nothing: the replica will refuse them.
    """
    prompt = fields.get("prompt")
    if prompt is None:
        found = list(_message_parts(fields.get("messages")))
        texts = [text for text in found if text is not None]
        is_all_text = len(texts) == len(found)
        if fields.get("tools"):
            texts.append(json.dumps(fields["tools"], ensure_ascii=False))
        return PromptSize(sum(map(_num_bytes, texts)), 0, is_all_text)
    parts = prompt if isinstance(prompt, list) else [prompt]
    text_bytes = sum(_num_bytes(part) for part in parts if isinstance(part, str))
    id_tokens = sum(1 for part in parts if isinstance(part, int))
    id_tokens += sum(len(part) for part in parts if isinstance(part, list))
    return PromptSize(text_bytes, id_tokens)


def _message_parts(messages: object) -> Iterator[str | None]:
    """Yield the text of every part of every message; None for a part that is no text."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield content
        for part in content if isinstance(content, list) else ():
            text = part.get("text") if isinstance(part, dict) else None
            yield text if isinstance(text, str) else None


def _num_bytes(text: str) -> int:
    # JSON may hold half of a surrogate pair, which has no UTF-8.
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


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
