"""The shapes of OpenAI's API that this endpoint reads and writes."""

import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from serving.engine.sampling import SamplingParams
from serving.errors import RequestError, UnsupportedError
from serving.structured_outputs import Constraint, ResponseFormat, StructuredOutputs

NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "n": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "min_p": (None, 0),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "min_tokens": (None, 0),
    "stop_token_ids": (None, []),
    "bad_words": (None, []),
    "include_stop_str_in_output": (None, False),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "prompt_logprobs": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": (None, {}),
    "add_generation_prompt": (None, True),
    "continue_final_message": (None, False),
}
"""Known fields that are not supported, and the values under which they mean nothing."""


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: StrictBool = False


class GenerateBody(BaseModel):
    """What completions and chat completions share. Unknown fields are benign and ignored."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(default=None, ge=-1)
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    def refuse_unsupported(self) -> None:
        """Raise for a field that would change the meaning and is not supported.

        Raises:
            UnsupportedError: Names the field.
        """
        for name, value in (self.model_extra or {}).items():
            neutral = NEUTRAL_VALUES.get(name)
            if neutral is not None and not any(_is_same(value, other) for other in neutral):
                raise UnsupportedError(
                    f"{name} {value!r:.60} is not supported; leave it out", param=name
                )

    def stops(self) -> list[str]:
        """Return the stop strings, empty ones left out."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return [stop for stop in stops if stop]

    def constraint(self) -> Constraint | None:
        """Return what the answer must follow; None where anything goes.

        Raises:
            RequestError: If two fields ask for something.
        """
        asked = None if self.response_format is None else self.response_format.constraint()
        if self.structured_outputs is None:
            return asked
        if asked is not None:
            raise RequestError(
                "response_format and structured_outputs both constrain the answer; drop one",
                param="structured_outputs",
            )
        return self.structured_outputs.constraint()

    def wants_usage_chunk(self) -> bool:
        """Whether a streamed answer ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int) -> SamplingParams:
        """Return the engine's parameters, with OpenAI's defaults where a field is left out."""
        return SamplingParams(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(self.top_k or 0, 0),
            max_tokens=max_tokens,
            ignore_eos=self.ignore_eos,
        )


def _is_same(value: object, other: object) -> bool:
    # Python holds False equal to 0, but `logprobs: 0` asks for something and false does not.
    return isinstance(value, bool) == isinstance(other, bool) and value == other


class CompletionBody(GenerateBody):
    """Body of `POST /v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]


class TextPart(BaseModel):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[TextPart] | None = None

    def text(self) -> str:
        """Return the content as one string."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    def refuse_unsupported(self) -> None:
        """Raise where the message carries more than text.

        Raises:
            UnsupportedError: Names the field.
        """
        for name in ("tool_calls", "function_call", "audio"):
            if (self.model_extra or {}).get(name):
                raise UnsupportedError(
                    f"a message holds {name}, which is not supported; send text", param="messages"
                )


class ChatBody(GenerateBody):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)


class AdapterBody(BaseModel):
    """Body of `POST /v1/load_lora_adapter`, vLLM's shape."""

    lora_name: str = Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")
    """A model name: printable ASCII without white space, as it stands in log lines."""
    lora_path: str = Field(min_length=1)


class AdapterNameBody(BaseModel):
    """Body of `POST /v1/unload_lora_adapter`, vLLM's shape."""

    lora_name: str = Field(min_length=1)


class AnswerFormat:
    """Writes one answer in either API's form, whole or in chunks."""

    def __init__(self, *, model: str, is_chat: bool) -> None:
        """Answer as `model`; `is_chat` selects the chat form."""
        self._is_chat = is_chat
        self._kind = "chat.completion" if is_chat else "text_completion"
        prefix = "chatcmpl" if is_chat else "cmpl"
        self._head = {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finish_reason: str, usage: dict[str, int]) -> dict[str, Any]:
        """Return the answer in one piece."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        if self._is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return self._head | {"object": self._kind, "choices": [choice], "usage": usage}

    def opening(self) -> dict[str, Any] | None:
        """Return the first chunk: chat names the role before any text."""
        if not self._is_chat:
            return None
        return self._chunk({"role": "assistant", "content": ""}, None)

    def chunk(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """Return a chunk of text, or the last one, which carries `finish_reason`."""
        return self._chunk({"content": text} if text else {}, finish_reason, text)

    def usage_chunk(self, usage: dict[str, int]) -> dict[str, Any]:
        """Return the chunk of token counts that follows the last choice."""
        return self._head | {"object": self._chunk_kind, "choices": [], "usage": usage}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self._is_chat else "text_completion"

    def _chunk(
        self, delta: dict[str, str], finish_reason: str | None, text: str = ""
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason}
        choice |= {"delta": delta} if self._is_chat else {"text": text}
        return self._head | {"object": self._chunk_kind, "choices": [choice]}


def usage(*, prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return OpenAI's usage object."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
