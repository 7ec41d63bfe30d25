"""Completions and chat completions in OpenAI's shapes, whole or as server-sent events."""

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any, Protocol

from serving.answer_parts import Choice, Piece, Usage
from serving.openai_api import GenerateBody
from serving.token_texts import LegacyLogprobs, TokenTexts

DONE = "data: [DONE]\n\n"


class AnswerFormat(Protocol):
    """Writes one answer."""

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the answer in one piece."""

    def start(self) -> list[str]:
        """Return the events before the first piece."""

    def piece(self, piece: Piece) -> list[str]:
        """Return the events of a piece."""

    def end(self, usage: Usage) -> list[str]:
        """Return the events behind the last piece."""

    def failed(self, error: dict[str, object]) -> list[str]:
        """Return the events that end a stream which failed."""


class _Format:
    """What the two have in common."""

    def __init__(
        self, body: GenerateBody, texts: TokenTexts, *, prefix: str, kind: str, chunk_kind: str
    ) -> None:
        self._texts = texts
        self._has_logprobs = body.num_logprobs is not None
        self._wants_usage = body.wants_usage_chunk()
        self._kind, self._chunk_kind = kind, chunk_kind
        self._head = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": body.model,
        }

    def end(self, usage: Usage) -> list[str]:
        last = self._head | {"object": self._chunk_kind, "choices": [], "usage": usage.openai()}
        return [*([event(last)] if self._wants_usage else []), DONE]

    def failed(self, error: dict[str, object]) -> list[str]:
        return [event(error)]

    def _answer(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        return self._head | {"object": self._kind, "choices": choices, "usage": usage.openai()}

    def _chunk(self, index: int, content: dict[str, Any], **fields: Any) -> str:
        choice = {"index": index, "logprobs": None, "finish_reason": None} | content | fields
        return event(self._head | {"object": self._chunk_kind, "choices": [choice]})


class CompletionFormat(_Format):
    """Answers of `POST /v1/completions`."""

    def __init__(self, body: GenerateBody, texts: TokenTexts) -> None:
        """Answer `body`."""
        kind = "text_completion"
        super().__init__(body, texts, prefix="cmpl", kind=kind, chunk_kind=kind)
        self._logprobs: dict[int, LegacyLogprobs] = {}

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the answer in one piece."""
        parts = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": self._scores(index, choice),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        return self._answer(parts, usage)

    def start(self) -> list[str]:
        """Return nothing: the first text opens the stream."""
        return []

    def piece(self, piece: Piece) -> list[str]:
        """Return a chunk of text, and the last one, which carries the reason."""
        chunks = []
        if piece.text or piece.tokens:
            logprobs = self._scores(piece.index, piece)
            chunks.append(self._chunk(piece.index, {"text": piece.text, "logprobs": logprobs}))
        if piece.finish_reason is not None:
            last = {"text": "", "finish_reason": piece.finish_reason}
            chunks.append(self._chunk(piece.index, last))
        return chunks

    def _scores(self, index: int, part: Choice | Piece) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        return self._logprobs.setdefault(index, LegacyLogprobs(self._texts)).take(part.tokens)


class ChatFormat(_Format):
    """Answers of `POST /v1/chat/completions`."""

    def __init__(self, body: GenerateBody, texts: TokenTexts) -> None:
        """Answer `body`."""
        kind = "chat.completion"
        super().__init__(body, texts, prefix="chatcmpl", kind=kind, chunk_kind=f"{kind}.chunk")
        self._num_choices = body.num_choices

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the answer in one piece."""
        parts = [
            {
                "index": index,
                "message": _message(choice),
                "logprobs": self._scores(choice),
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choices)
        ]
        return self._answer(parts, usage)

    def start(self) -> list[str]:
        """Return the chunks that name the role, before any text."""
        opening = {"delta": {"role": "assistant", "content": ""}}
        return [self._chunk(index, opening) for index in range(self._num_choices)]

    def piece(self, piece: Piece) -> list[str]:
        """Return chunks of text and calls, and the last one, which carries the reason."""
        chunks = []
        scores = self._scores(piece)
        if piece.text or (piece.tokens and not piece.calls):
            delta = {"content": piece.text}
            chunks.append(self._chunk(piece.index, {"delta": delta, "logprobs": scores}))
            scores = None
        for call in piece.calls:
            part: dict[str, Any] = {"index": call.index, "function": {"arguments": call.arguments}}
            if call.name is not None:
                part |= {"id": call.id, "type": "function"}
                part["function"]["name"] = call.name
            delta_call = {"delta": {"tool_calls": [part]}, "logprobs": scores}
            chunks.append(self._chunk(piece.index, delta_call))
            scores = None
        if piece.finish_reason is not None:
            last = {"delta": {}, "finish_reason": piece.finish_reason}
            chunks.append(self._chunk(piece.index, last))
        return chunks

    def _scores(self, part: Choice | Piece) -> dict[str, Any] | None:
        return self._texts.chat_logprobs(part.tokens) if self._has_logprobs else None


def _message(choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.calls:
        message["content"] = choice.text or None
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in choice.calls
        ]
    return message


def event(content: dict[str, Any], name: str | None = None) -> str:
    """Return one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content, separators=(',', ':'))}\n\n"
