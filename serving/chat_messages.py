"""The messages of a chat, and how a chat template takes them."""

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import UnsupportedError

_ROLES = {"developer": "system", "function": "tool"}
"""Roles under the name that templates know."""


class TextPart(BaseModel):
    """A text part of a message's content."""

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """The function of a call in the conversation."""

    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ToolCall(BaseModel):
    """A call in the conversation."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(min_length=1)
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """Return the content as one string; parts stand on lines of their own, as in vLLM."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""

    def for_template(self) -> dict[str, Any]:
        """Return what a chat template reads.

        Raises:
            UnsupportedError: If the message carries what is no text.
        """
        for name in ("function_call", "audio"):
            if (self.model_extra or {}).get(name):
                raise UnsupportedError(
                    f"a message holds {name}, which is not supported; send text", param="messages"
                )
        message: dict[str, Any] = {"role": _ROLES.get(self.role, self.role), "content": self.text()}
        if self.name is not None:
            message["name"] = self.name
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.tool_calls:
            message["tool_calls"] = [_call(call) for call in self.tool_calls]
        return message


def _call(call: ToolCall) -> dict[str, Any]:
    """Return a call with its arguments as an object, which templates write out themselves."""
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = call.function.arguments  # what the model wrote was no JSON: shown as it is
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }
