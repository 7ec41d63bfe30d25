"""The OpenAPI document of the endpoint: what it takes and every status it answers with."""

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from serving.adapter_folder import FILES
from serving.api_answers import (
    AdapterAnswer,
    AdapterList,
    AdapterRemoved,
    ChatAnswer,
    CompletionAnswer,
    ErrorAnswer,
    ModelCard,
    ModelList,
    ResponseAnswer,
    VersionAnswer,
)
from serving.embeddings_api import EmbeddingsAnswer, EmbeddingsBody
from serving.openai_api import AdapterBody, AdapterNameBody, ChatBody, CompletionBody
from serving.responses_api import ResponsesBody
from serving.tokenize_api import DetokenizeAnswer, DetokenizeBody, TokenizeAnswer, TokenizeBody

_COMPONENTS = "#/components/schemas/{model}"
_STREAM: dict[str, Any] = {"text/event-stream": {}}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}
_STATUSES = {
    400: "The request cannot be served as asked",
    401: "No valid key",
    403: "A key without the right",
    404: "No such model, adapter or path",
    408: "The request took too long",
    413: "The body is too large",
    415: "The body is of another type",
    422: "The body cannot be used",
    429: "The queue is full; see Retry-After",
    500: "The engine failed",
    503: "The engine is loading, draining or restarting; see Retry-After",
    504: "The answer took too long",
    507: "The disk does not take an upload",
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One path and method of the document."""

    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | type[str] | None = None
    """`str` is text; None is an empty body."""
    can_stream: bool = False
    files: tuple[str, ...] = ()
    """Of a body that is a form of files."""


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("post", "/v1/completions"): Operation(
        "Continue prompts", CompletionBody, CompletionAnswer, can_stream=True
    ),
    ("post", "/v1/chat/completions"): Operation(
        "Answer a conversation", ChatBody, ChatAnswer, can_stream=True
    ),
    ("post", "/v1/responses"): Operation(
        "Answer as a response; nothing is stored", ResponsesBody, ResponseAnswer, can_stream=True
    ),
    ("post", "/v1/embeddings"): Operation(
        "The model's pooled hidden state of texts", EmbeddingsBody, EmbeddingsAnswer
    ),
    ("post", "/tokenize"): Operation("Text to token ids", TokenizeBody, TokenizeAnswer),
    ("post", "/detokenize"): Operation("Token ids to text", DetokenizeBody, DetokenizeAnswer),
    ("get", "/v1/models"): Operation("The model and its adapters", answer=ModelList),
    ("get", "/v1/models/{name}"): Operation("One of them", answer=ModelCard),
    ("post", "/v1/load_lora_adapter"): Operation("Load an adapter", AdapterBody, str),
    ("post", "/v1/unload_lora_adapter"): Operation("Unload an adapter", AdapterNameBody, str),
    ("get", "/admin/adapters"): Operation("The loaded adapters", answer=AdapterList),
    ("post", "/admin/adapters/{name}"): Operation(
        "Send an adapter, in place of one of its name", answer=AdapterAnswer, files=FILES
    ),
    ("delete", "/admin/adapters/{name}"): Operation("Unload an adapter", answer=AdapterRemoved),
    ("get", "/health"): Operation("Whether requests can be served"),
    ("get", "/metrics"): Operation("Counters in Prometheus's format", answer=str),
    ("get", "/version"): Operation("Version and engine", answer=VersionAnswer),
}


def api_document(model_name: str) -> dict[str, Any]:
    """Return the document of an endpoint that serves `model_name`."""
    operations = OPERATIONS.values()
    models: set[type[BaseModel]] = {ErrorAnswer}
    for operation in operations:
        used = (operation.body, operation.answer)
        models |= {model for model in used if model is not None and issubclass(model, BaseModel)}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template=_COMPONENTS
    )
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path, {})[method] = _operation(path, operation)
    schemas = definitions["$defs"]
    for schema in schemas.values():
        if (named := schema.get("properties", {}).get("model")) is not None:
            named["examples"] = [model_name]
    return {
        "openapi": "3.1.0",
        "info": {"title": "Motley", "version": version("motley")},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _operation(path: str, operation: Operation) -> dict[str, Any]:
    error = {"application/json": {"schema": _reference(ErrorAnswer)}}
    responses: dict[str, Any] = {"200": {"description": "Done", "content": _answer(operation)}}
    for status, words in _STATUSES.items():
        responses[str(status)] = {"description": words, "content": error}
    described: dict[str, Any] = {"summary": operation.summary, "responses": responses}
    if operation.body is not None:
        content = {"application/json": {"schema": _reference(operation.body)}}
        described["requestBody"] = {"required": True, "content": content}
    if operation.files:
        described["requestBody"] = {"required": True, "content": _form(operation.files)}
    if "{name}" in path:
        schema = {"type": "string", "minLength": 1}
        described["parameters"] = [
            {"name": "name", "in": "path", "required": True, "schema": schema}
        ]
    return described


def _form(files: tuple[str, ...]) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "properties": dict.fromkeys(files, file),
        "required": list(files),
        "additionalProperties": False,
    }
    return {"multipart/form-data": {"schema": schema}}


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.answer is None:
        return {}
    if not issubclass(operation.answer, BaseModel):
        return _TEXT
    content: dict[str, Any] = {"application/json": {"schema": _reference(operation.answer)}}
    return content | (_STREAM if operation.can_stream else {})


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _COMPONENTS.format(model=model.__name__)}
