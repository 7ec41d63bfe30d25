"""The shapes of this endpoint's answers, for its OpenAPI document."""

from typing import Any, Literal

from pydantic import BaseModel


class ErrorContent(BaseModel):
    """What went wrong."""

    message: str
    """What, the value, and what to do, in one line."""
    type: str
    param: str | None
    """The field at fault."""
    code: int
    """The HTTP status."""


class ErrorAnswer(BaseModel):
    """OpenAI's error body."""

    error: ErrorContent


class UsageContent(BaseModel):
    """Tokens of prompts and answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LegacyLogprobsContent(BaseModel):
    """Log-probabilities of a completion."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One completion."""

    index: int
    text: str
    logprobs: LegacyLogprobsContent | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(BaseModel):
    """Answer of `POST /v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: UsageContent


class CalledContent(BaseModel):
    """A function and its arguments as JSON."""

    name: str
    arguments: str


class ToolCallContent(BaseModel):
    """A call of the model's."""

    id: str
    type: Literal["function"]
    function: CalledContent


class AnswerMessage(BaseModel):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[ToolCallContent] = []


class ScoredContent(BaseModel):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class TokenContent(ScoredContent):
    """A token, its log-probability and the likeliest ones."""

    top_logprobs: list[ScoredContent]


class ChatLogprobsContent(BaseModel):
    """Log-probabilities of a chat's answer."""

    content: list[TokenContent]
    refusal: None


class ChatChoice(BaseModel):
    """One answer of a chat."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobsContent | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatAnswer(BaseModel):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageContent


class ResponseUsage(BaseModel):
    """Tokens of a response."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class ResponseAnswer(BaseModel):
    """Answer of `POST /v1/responses`."""

    id: str
    object: Literal["response"]
    created_at: int
    model: str
    status: Literal["completed", "incomplete"]
    output: list[dict[str, Any]]
    usage: ResponseUsage


class ModelCard(BaseModel):
    """A model or an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[ModelCard]


class AdapterCard(BaseModel):
    """A loaded adapter; of one loaded by its path only the name is known."""

    id: str
    object: Literal["adapter"]
    rank: int | None
    job: str | None
    """The fine-tuning job it comes from."""
    adapter_sha256: str | None
    base_weights_sha256: str | None


class AdapterAnswer(AdapterCard):
    """Answer of `POST /admin/adapters/{name}`."""

    replaced: bool
    """Whether another one had that name until now."""


class AdapterList(BaseModel):
    """Answer of `GET /admin/adapters`."""

    object: Literal["list"]
    data: list[AdapterCard]
    max_upload_bytes: int | None
    """Largest upload; null where none is taken."""


class AdapterRemoved(BaseModel):
    """Answer of `DELETE /admin/adapters/{name}`."""

    id: str
    object: Literal["adapter"]
    deleted: Literal[True]


class VersionAnswer(BaseModel):
    """Answer of `GET /version`."""

    version: str
    engine: str
