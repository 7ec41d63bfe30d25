"""What a client asks of a virtual model: the question, and the documents it is about.

The question is the last user message, behind what short system messages say. The documents are, by the first rule that finds any, and the
answer's `minions.context` names it:

1. `documents`: the body's field of that name, a list of strings or of `{"text", "title"}`;
2. `parts`: text parts of messages that are at least `document_part_bytes` long. A last message that
   is one such text gives its last paragraph as the question and the rest as the document;
3. `messages`: the messages before the last user message, those of the system left out;
4. `none`: the remote model answers by itself.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from router.errors import ParameterError
from router.minions.chunks import Document

Context = Literal["documents", "parts", "messages", "none"]

SAMPLING = ("temperature", "top_p", "seed")
"""Fields that both models get; all others but those read here have no effect."""

_REFUSED = ("tools", "functions", "audio", "logprobs", "stop", "prediction")
_SYSTEM = ("system", "developer")
_Part = tuple[int, str]
"""A message's place and one text of it."""


@dataclass(frozen=True, slots=True)
class MinionsRequest:
    """One request to a virtual model."""

    question: str
    documents: tuple[Document, ...]
    context: Context
    """The rule that found the documents."""
    is_stream: bool
    includes_usage: bool
    """Whether a stream ends in a chunk of token counts."""
    max_answer_tokens: int | None
    sampling: Mapping[str, object]


def read_request(fields: Mapping[str, object], *, document_part_bytes: int) -> MinionsRequest:
    """Return what a body of `/v1/chat/completions` asks.

    Raises:
        ParameterError: If there is no question, or something is asked that a virtual model has not.
    """
    _refuse_unavailable(fields)
    parts = list(_text_parts(fields.get("messages")))
    asked = _last_user(fields["messages"])
    question, documents, context = _divide(fields, parts, asked, document_part_bytes)
    if not question.strip():
        raise ParameterError("messages", "the last user message asks nothing; write the question")
    options = fields.get("stream_options")
    orders = [
        text.strip()
        for place, text in parts
        if _role(fields["messages"], place) in _SYSTEM and _num_bytes(text) < document_part_bytes
    ]
    return MinionsRequest(
        question="\n\n".join([*filter(None, orders), question.strip()]),
        documents=tuple(documents),
        context=context,
        is_stream=fields.get("stream") is True,
        includes_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
        max_answer_tokens=_max_tokens(fields),
        sampling={name: fields[name] for name in SAMPLING if fields.get(name) is not None},
    )


def _divide(
    fields: Mapping[str, object], parts: list[_Part], asked: int, document_part_bytes: int
) -> tuple[str, list[Document], Context]:
    given = _given_documents(fields.get("documents"))
    own = [text for place, text in parts if place == asked]
    if given:
        return "\n".join(own), given, "documents"
    is_long = {text: _num_bytes(text) >= document_part_bytes for _, text in parts}
    long = [text for _, text in parts if is_long[text]]
    if long:
        short = "\n".join(text for text in own if not is_long[text])
        if not short.strip() and own:
            rest, short = _last_paragraph(own[-1], document_part_bytes)
            long[long.index(own[-1])] = rest
        return short, [Document(text) for text in long], "parts"
    said = "\n\n".join(
        f"{_role(fields['messages'], place)}: {text}"
        for place, text in parts
        if place < asked and _role(fields["messages"], place) not in _SYSTEM
    )
    return "\n".join(own), [Document(said)] if said else [], "messages" if said else "none"


def _last_paragraph(text: str, document_part_bytes: int) -> tuple[str, str]:
    document, _, question = text.rstrip().rpartition("\n\n")
    if not document.strip() or _num_bytes(question) >= document_part_bytes:
        raise ParameterError(
            "messages",
            "the last user message is one long text without a short last paragraph; put the "
            "document into `documents` and the question into the message",
        )
    return document, question


def _given_documents(value: object) -> list[Document]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ParameterError("documents", "must be a list of strings or of {text, title} objects")
    return [_given_document(each, f"documents.{place}") for place, each in enumerate(value)]


def _given_document(value: object, where: str) -> Document:
    text, title = (
        (value.get("text"), value.get("title")) if isinstance(value, dict) else (value, "")
    )
    if not isinstance(text, str) or not text.strip():
        raise ParameterError(where, "must be a text, or an object with a `text` that is not empty")
    if title is not None and not isinstance(title, str):
        raise ParameterError(f"{where}.title", "must be a string")
    return Document(text, (title or "")[:200])


def _text_parts(messages: object) -> Iterator[_Part]:
    if not isinstance(messages, list) or not messages:
        raise ParameterError("messages", "must be a list with at least one message")
    for place, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, str):
            yield place, content
            continue
        for index, part in enumerate(content if isinstance(content, list) else ()):
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str):
                where = f"messages.{place}.content.{index}"
                raise ParameterError(where, "is no text, which is all these models read; remove it")
            yield place, text


def _last_user(messages: object) -> int:
    assert isinstance(messages, list)
    for place in range(len(messages) - 1, -1, -1):
        if _role(messages, place) == "user":
            return place
    raise ParameterError("messages", "holds no user message; add one with the question")


def _role(messages: object, place: int) -> str:
    assert isinstance(messages, list)
    message = messages[place]
    return str(message.get("role")) if isinstance(message, dict) else ""


def _refuse_unavailable(fields: Mapping[str, object]) -> None:
    for name in _REFUSED:
        if fields.get(name):
            raise ParameterError(name, "is not available with minions models; remove it")
    if fields.get("n") not in (None, 1):
        raise ParameterError("n", "must be 1 with minions models")
    form = fields.get("response_format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        raise ParameterError("response_format", "must be text with minions models; remove it")


def _max_tokens(fields: Mapping[str, object]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        value = fields.get(name)
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ParameterError(name, "must be a whole number above 0")
        return value
    return None


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
