"""The tools of a request, and the grammar of an answer that must call one.

A required call is written as a JSON list of `{"name": ..., "arguments": ...}`, so that its
arguments follow the tool's schema token by token, without white space a model may get lost in; `tool_parsers.REQUIRED` reads it back.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, StringConstraints

from serving.structured_outputs import Constraint

MOST_REQUIRED_CALLS = 8
"""Calls of one answer that must call; without a bound a model may never end the list."""

ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]

_SEPARATORS = {
    "whitespace_pattern": None,
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}
"""Options of llguidance: JSON as `json.dumps` writes it."""
_ANY_OBJECT: dict[str, Any] = {"type": "object"}


class FunctionSpec(BaseModel):
    """A function the model may call."""

    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """JSON schema of the arguments; None is any object."""
    strict: bool | None = None


class Tool(BaseModel):
    """One entry of `tools`."""

    type: Literal["function"]
    function: FunctionSpec


class FunctionName(BaseModel):
    """Names one function."""

    name: str


class NamedToolChoice(BaseModel):
    """A `tool_choice` of one function."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedToolChoice


def calls_constraint(tools: list[Tool], *, most_calls: int) -> Constraint:
    """Return the grammar of one to `most_calls` calls of `tools`."""
    schema = {
        "x-guidance": _SEPARATORS,
        "$defs": {f"tool{i}": _moved(_parameters(t), f"tool{i}") for i, t in enumerate(tools)},
        "type": "array",
        "minItems": 1,
        "maxItems": most_calls,
        "items": {"anyOf": [_call(tool.function.name, f"tool{i}") for i, tool in enumerate(tools)]},
    }
    return Constraint("json_schema", json.dumps(schema), "tools")


def _parameters(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or _ANY_OBJECT


def _call(name: str, key: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{key}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a whole schema as it reads at `#/$defs/key`: references to its root point there."""
    moved = _with_references(schema, f"#/$defs/{key}")
    return {name: value for name, value in moved.items() if name not in ("$schema", "$id")}


def _with_references(node: Any, root: str) -> Any:
    if isinstance(node, list):
        return [_with_references(item, root) for item in node]
    if not isinstance(node, dict):
        return node
    result = {}
    for name, value in node.items():
        if name == "$ref" and isinstance(value, str) and value.startswith("#"):
            result[name] = root + value[1:]
        elif name in ("const", "enum", "default", "examples"):
            result[name] = value
        else:
            result[name] = _with_references(value, root)
    return result
