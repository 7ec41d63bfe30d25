"""What a request may ask its answer to look like, in OpenAI's words and in vLLM's."""

import json
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.engine.grammar import GrammarKind

_ANY_OBJECT = '{"type": "object"}'


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar before it is compiled, and the field of the request that asks for it."""

    kind: GrammarKind
    source: str
    param: str


class NamedSchema(BaseModel):
    """The schema of a `response_format`. Every schema is kept to, whatever `strict` says."""

    name: str
    json_schema: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """OpenAI's `response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError(
                f"response_format type {self.type!r} and its json_schema do not go together; "
                "give a json_schema with type 'json_schema' alone"
            )
        return self

    def constraint(self) -> Constraint | None:
        """Return what the answer must follow; None for plain text."""
        if self.type == "text":
            return None
        source = _ANY_OBJECT
        if self.json_schema is not None:
            source = json.dumps(self.json_schema.json_schema)
        return Constraint("json_schema", source, "response_format")


class StructuredOutputs(BaseModel):
    """vLLM's `structured_outputs`, one field of it at a time.

    Source: vLLM's documentation, `features/structured_outputs`, as of 0.12.
    """

    model_config = ConfigDict(extra="forbid")

    json_: str | dict[str, Any] | None = Field(default=None, alias="json")
    """A JSON schema."""
    regex: str | None = None
    """The whole answer matches it."""
    choice: list[str] | None = Field(default=None, min_length=1)
    """The answer is one of these."""
    grammar: str | None = None
    """A context-free grammar in Lark's notation or GBNF."""
    json_object: bool | None = None
    """Any JSON object."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self._given()) != 1:
            raise ValueError(
                f"structured_outputs asks for {sorted(self._given()) or 'nothing'}; give one of "
                "json, regex, choice, grammar and json_object"
            )
        return self

    def _given(self) -> dict[str, tuple[GrammarKind, str]]:
        given: dict[str, tuple[GrammarKind, str]] = {}
        if self.json_ is not None:
            is_text = isinstance(self.json_, str)
            given["json"] = "json_schema", str(self.json_) if is_text else json.dumps(self.json_)
        if self.regex is not None:
            given["regex"] = "regex", self.regex
        if self.choice is not None:
            given["choice"] = "choice", json.dumps(self.choice)
        if self.grammar is not None:
            given["grammar"] = "grammar", self.grammar
        if self.json_object:
            given["json_object"] = "json_schema", _ANY_OBJECT
        return given

    def constraint(self) -> Constraint:
        """Return what the answer must follow."""
        ((kind, source),) = self._given().values()
        return Constraint(kind, source, "structured_outputs")
