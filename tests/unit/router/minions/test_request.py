"""What is the question, and what are the documents."""

import pytest

from router.errors import ParameterError
from router.minions.request import MinionsRequest, read_request

LONG = "word " * 500


def read(messages: list[dict[str, object]], **more: object) -> MinionsRequest:
    """Return the request in a body."""
    return read_request({"messages": messages, **more}, document_part_bytes=2000)


def user(content: object) -> dict[str, object]:
    """Return a user message."""
    return {"role": "user", "content": content}


def test_given_documents_come_first() -> None:
    """The body's documents win over long parts and earlier messages."""
    documents = ["one", {"text": "two", "title": "B"}]
    request = read([user(LONG), user("Why?")], documents=documents)
    assert [(each.text, each.title) for each in request.documents] == [("one", ""), ("two", "B")]
    assert (request.question, request.context) == ("Why?", "documents")


def test_long_parts_come_second() -> None:
    """A part over the threshold is a document wherever it stands; the rest of the last asks."""
    last = user([{"type": "text", "text": LONG}, {"type": "text", "text": "Why?"}])
    request = read([user("before " + LONG), last])
    assert [each.text for each in request.documents] == ["before " + LONG, LONG]
    assert (request.question, request.context) == ("Why?", "parts")


def test_one_long_text_is_divided_at_its_last_paragraph() -> None:
    """A document pasted before its question in one string is taken apart."""
    request = read([user(f"{LONG}\n\n{LONG}\n\nWhy?\n")])
    assert [each.text for each in request.documents] == [f"{LONG}\n\n{LONG}"]
    assert request.question == "Why?"
    with pytest.raises(ParameterError, match="put the document into `documents`"):
        read([user(f"Why?\n\n{LONG}")])


def test_earlier_messages_come_third() -> None:
    """A conversation is the document of its last question; short system messages are orders."""
    messages = [
        {"role": "system", "content": "Be brief."},
        user("The bell rang at four."),
        {"role": "assistant", "content": "I see."},
        user("When?"),
    ]
    request = read(messages)
    assert request.documents[0].text == "user: The bell rang at four.\n\nassistant: I see."
    assert (request.question, request.context) == ("Be brief.\n\nWhen?", "messages")


def test_a_bare_question_has_no_document() -> None:
    """And says so."""
    request = read([{"role": "system", "content": "Be brief."}, user("When?")])
    assert (request.documents, request.context) == ((), "none")


@pytest.mark.parametrize(
    ("messages", "more", "param"),
    [
        (None, {}, "messages"),
        ([], {}, "messages"),
        ("x", {}, "messages"),
        ([{"role": "assistant", "content": "x"}], {}, "messages"),
        ([user("  ")], {}, "messages"),
        ([user([{"type": "image_url", "image_url": {"url": "x"}}])], {}, "messages.0.content.0"),
        ([user("x")], {"documents": "text"}, "documents"),
        ([user("x")], {"documents": [""]}, "documents.0"),
        ([user("x")], {"documents": ["y", {"title": "t"}]}, "documents.1"),
        ([user("x")], {"documents": [{"text": "y", "title": 1}]}, "documents.0.title"),
        ([user("x")], {"tools": [{}]}, "tools"),
        ([user("x")], {"n": 2}, "n"),
        ([user("x")], {"response_format": {"type": "json_object"}}, "response_format"),
        ([user("x")], {"max_tokens": 0}, "max_tokens"),
        ([user("x")], {"max_completion_tokens": "9"}, "max_completion_tokens"),
    ],
)
def test_what_cannot_be_served_is_refused_by_name(messages, more, param) -> None:
    """A 400 names the field."""
    with pytest.raises(ParameterError) as refused:
        read(messages, **more)
    assert refused.value.param == param


def test_harmless_defaults_pass() -> None:
    """What clients send by default is no reason to refuse."""
    more = {"tools": [], "n": 1, "response_format": {"type": "text"}, "stop": None, "user": "u"}
    request = read([user("x")], temperature=0, seed=7, max_tokens=9, stream=True, **more)
    assert request.sampling == {"temperature": 0, "seed": 7}
    assert (request.max_answer_tokens, request.is_stream) == (9, True)
