"""The body of OpenAI's responses API, read as the chat it stands for.

Nothing is stored: what refers to an earlier response is refused, `store` is ignored.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from planner.documents import describe
from serving import unsupported_fields
from serving.errors import RequestError
from serving.openai_api import ChatBody
from serving.tools import ToolName


class InputText(BaseModel):
    """A text part of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class InputMessage(BaseModel):
    """A message; `type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[InputText]

    def chat(self) -> dict[str, Any]:
        """Return it as a chat's message."""
        if isinstance(self.content, str):
            return {"role": self.role, "content": self.content}
        parts = [{"type": "text", "text": part.text} for part in self.content]
        return {"role": self.role, "content": parts}


class InputCall(BaseModel):
    """A call the model made."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str

    def chat(self) -> dict[str, Any]:
        """Return it as a chat's message."""
        function = {"name": self.name, "arguments": self.arguments}
        call = {"id": self.call_id, "type": "function", "function": function}
        return {"role": "assistant", "tool_calls": [call]}


class InputCallOutput(BaseModel):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]

    def chat(self) -> dict[str, Any]:
        """Return it as a chat's message."""
        texts = [self.output] if isinstance(self.output, str) else [p.text for p in self.output]
        return {"role": "tool", "tool_call_id": self.call_id, "content": "\n".join(texts)}


class InputReasoning(BaseModel):
    """Reasoning sent back; templates have no place for it."""

    type: Literal["reasoning"]

    def chat(self) -> None:
        """Return nothing: it is left out."""


InputItem = InputMessage | InputCall | InputCallOutput | InputReasoning


class TextFormat(BaseModel):
    """`text.format`: a response format whose schema stands beside its type."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = "answer"
    json_schema: dict[str, Any] | None = Field(default=None, alias="schema")

    def response_format(self) -> dict[str, Any]:
        """Return it as a chat's `response_format`."""
        content: dict[str, Any] = {"type": self.type}
        if self.json_schema is not None:
            content["json_schema"] = {"name": self.name, "schema": self.json_schema}
        return content


class TextOptions(BaseModel):
    """`text`."""

    format: TextFormat | None = None


class ResponseTool(BaseModel):
    """A tool, flat."""

    type: Literal["function"]
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseToolChoice(BaseModel):
    """A `tool_choice` of one function."""

    type: Literal["function"]
    name: str


class ResponsesChat(ChatBody):
    """The chat of a response, and what the response repeats."""

    echoed: dict[str, Any]


class ResponsesBody(BaseModel):
    """Body of `POST /v1/responses`. Unknown fields are benign and ignored."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    input: str | Annotated[list[InputItem], Field(min_length=1)]
    instructions: str | None = None
    max_output_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    stream: StrictBool | None = None
    text: TextOptions | None = None
    tools: list[ResponseTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ResponseToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    metadata: dict[str, str] | None = None
    seed: int | None = None

    def chat(self) -> "ResponsesChat":
        """Return the chat it stands for.

        Raises:
            RequestError: If it is none, or a field is not supported that would change the meaning.
        """
        unsupported_fields.refuse_unsupported(self.model_extra)
        try:
            return ResponsesChat.model_validate(self._chat())
        except ValidationError as error:
            raise RequestError(describe(error), param="input") from None

    def _chat(self) -> dict[str, Any]:
        tools = [
            {"type": "function", "function": tool.model_dump(exclude={"type"})}
            for tool in self.tools or []
        ]
        choice: Any = self.tool_choice
        if isinstance(choice, ResponseToolChoice):
            choice = {"type": "function", "function": {"name": choice.name}}
        wanted = self.text.format if self.text is not None else None
        return {
            "model": self.model,
            "messages": self._messages(),
            "max_completion_tokens": self.max_output_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seed": self.seed,
            "stream": self.stream,
            "tools": tools or None,
            "tool_choice": choice,
            "parallel_tool_calls": self.parallel_tool_calls,
            "response_format": None if wanted is None else wanted.response_format(),
            "echoed": self._echoed(),
        }

    def _messages(self) -> list[dict[str, Any]]:
        """Return the conversation; calls of one turn are one message."""
        messages: list[dict[str, Any]] = []
        if self.instructions is not None:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        for item in self.input:
            message = item.chat()
            if message is None:
                continue
            last = messages[-1] if messages else {}
            if "tool_calls" in message and last.get("role") == "assistant":
                last.setdefault("tool_calls", []).extend(message["tool_calls"])
            else:
                messages.append(message)
        return messages

    def _echoed(self) -> dict[str, Any]:
        """Return what the response repeats of the request."""
        body = json.loads(self.model_dump_json(by_alias=True))
        return {
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": (body["text"] or {}).get("format") or {"type": "text"}},
            "tool_choice": body["tool_choice"] or "auto",
            "tools": body["tools"] or [],
            "top_p": 1.0 if self.top_p is None else self.top_p,
        }
