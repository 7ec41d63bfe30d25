"""The bodies of OpenAI's API that this endpoint reads, with vLLM's additions."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from planner.documents import describe
from serving import unsupported_fields
from serving.chat_messages import ChatMessage
from serving.engine.sampling import SamplingParams
from serving.errors import RequestError
from serving.prompts import ChatOptions
from serving.structured_outputs import Constraint, ResponseFormat, StructuredOutputs
from serving.tools import MOST_REQUIRED_CALLS, NamedToolChoice, Tool, ToolChoice, calls_constraint

MOST_CHOICES = 128
"""Most choices of one request: prompts times `n`."""

Bias = Annotated[float, Field(ge=-100, le=100)]


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: StrictBool = False


class GenerateBody(BaseModel, ABC):
    """What completions and chat completions share. Unknown fields are benign and ignored."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    n: int | None = Field(default=None, ge=1, le=MOST_CHOICES)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=-1)
    min_p: float | None = Field(default=None, ge=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    repetition_penalty: float | None = Field(default=None, gt=0)
    logit_bias: dict[Annotated[int, Field(ge=0)], Bias] | None = None
    seed: int | None = None
    """Choice k of a prompt has seed + k."""
    stop: str | list[str] | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    include_stop_str_in_output: StrictBool = False
    min_tokens: int | None = Field(default=None, ge=0)
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool = False
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    @property
    def num_choices(self) -> int:
        """Answers to each prompt."""
        return self.n or 1

    @property
    @abstractmethod
    def num_logprobs(self) -> int | None:
        """Likeliest tokens to report beside each one's own log-probability; None reports none."""

    def refuse_unsupported(self) -> None:
        """Raise for a field that would change the meaning and is not supported.

        Raises:
            UnsupportedError: Names the field.
        """
        unsupported_fields.refuse_unsupported(self.model_extra)

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
        """Return the engine's parameters, with OpenAI's defaults where a field is left out.

        Raises:
            RequestError: If two fields contradict each other.
        """
        try:
            return SamplingParams(
                temperature=_or(self.temperature, 1.0),
                top_p=_or(self.top_p, 1.0),
                top_k=max(self.top_k or 0, 0),
                min_p=self.min_p or 0.0,
                repetition_penalty=_or(self.repetition_penalty, 1.0),
                frequency_penalty=self.frequency_penalty or 0.0,
                presence_penalty=self.presence_penalty or 0.0,
                logit_bias=self.logit_bias or {},
                stop_token_ids=tuple(self.stop_token_ids or ()),
                min_tokens=self.min_tokens or 0,
                max_tokens=max_tokens,
                ignore_eos=self.ignore_eos,
                num_logprobs=self.num_logprobs,
            )
        except ValidationError as error:
            raise RequestError(describe(error), param="min_tokens") from None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


class CompletionBody(GenerateBody):
    """Body of `POST /v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    max_tokens: int | None = Field(default=None, ge=0)
    """0 only with `echo`, to score the prompt."""
    echo: StrictBool = False
    logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """As the field says."""
        return self.logprobs

    def refuse_unsupported(self) -> None:
        """Raise for what is not supported, `max_tokens` of 0 without `echo` too.

        Raises:
            RequestError: Names the field.
        """
        super().refuse_unsupported()
        if self.max_tokens == 0 and not self.echo:
            raise RequestError(
                "max_tokens 0 answers nothing; ask for at least 1, or for echo", param="max_tokens"
            )


class ChatBody(GenerateBody):
    """Body of `POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: StrictBool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20, strict=True)] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    add_generation_prompt: StrictBool = True
    continue_final_message: StrictBool = False
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def num_logprobs(self) -> int | None:
        """`top_logprobs` where `logprobs` asks for any."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def choice(self) -> Literal["none", "auto", "required"] | NamedToolChoice:
        """`tool_choice` with OpenAI's default: auto where there are tools."""
        return self.tool_choice or ("auto" if self.tools else "none")

    @property
    def must_call(self) -> bool:
        """Whether the answer is a call whatever the model would say."""
        return self.choice not in ("none", "auto")

    def refuse_unsupported(self) -> None:
        """Raise for what is not supported, and for fields that contradict each other.

        Raises:
            RequestError: Names the field.
        """
        super().refuse_unsupported()
        if self.top_logprobs is not None and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true", param="top_logprobs")
        if self.must_call and not self.tools:
            raise RequestError(
                "tool_choice asks for a call and tools is empty", param="tool_choice"
            )
        names = {tool.function.name for tool in self.tools or []}
        if len(names) < len(self.tools or []):
            raise RequestError("tools holds two functions of one name; rename one", param="tools")
        if isinstance(self.choice, NamedToolChoice) and self.choice.function.name not in names:
            raise RequestError(
                f"tool_choice names {self.choice.function.name[:64]!r}, tools has {sorted(names)}",
                param="tool_choice",
            )

    def constraint(self) -> Constraint | None:
        """Return what the answer must follow: a call where one must be made.

        Raises:
            RequestError: If two fields ask for something.
        """
        asked = super().constraint()
        if self.choice == "none":
            return asked
        if asked is not None:
            raise RequestError(
                f"tools and {asked.param} both shape the answer; drop one or set tool_choice 'none'",
                param=asked.param,
            )
        if not self.must_call:
            return None
        return calls_constraint(self.wanted_tools(), most_calls=self.most_calls or 1)

    def wanted_tools(self) -> list[Tool]:
        """Return the tools the model is told about: none, all, or the one it must call."""
        if self.choice == "none":
            return []
        if isinstance(self.choice, NamedToolChoice):
            name = self.choice.function.name
            return [tool for tool in self.tools or [] if tool.function.name == name]
        return list(self.tools or [])

    @property
    def most_calls(self) -> int | None:
        """Calls of one answer; None where the model says."""
        if isinstance(self.choice, NamedToolChoice) or self.parallel_tool_calls is False:
            return 1
        return MOST_REQUIRED_CALLS if self.choice == "required" else None

    def options(self) -> ChatOptions:
        """Return how the conversation is written out."""
        return ChatOptions(
            tools=tuple(self.wanted_tools()),
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            template_kwargs=self.chat_template_kwargs,
        )


ADAPTER_NAME = r"^[!-~]+$"


class AdapterBody(BaseModel):
    """Body of `POST /v1/load_lora_adapter`, vLLM's shape."""

    lora_name: str = Field(min_length=1, max_length=256, pattern=ADAPTER_NAME)
    """A model name: printable ASCII without white space, as it stands in log lines."""
    lora_path: str = Field(min_length=1)


class AdapterNameBody(BaseModel):
    """Body of `POST /v1/unload_lora_adapter`, vLLM's shape."""

    lora_name: str = Field(min_length=1)
