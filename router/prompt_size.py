"""What can be counted of a body's input without a tokenizer."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What can be counted of an input without a tokenizer."""

    text_bytes: int
    """Of text, in UTF-8."""
    id_tokens: int
    """Of a prompt that came as token ids."""
    is_all_text: bool = True
    """False: some part of a message is no text and stands in neither count."""


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
