"""A request's input as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.base import Query
from router.prefix_blocks import MOST_CHARACTERS
from router.prompt import rendered

MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant"]), "content": st.text(max_size=9)}
    ),
    max_size=6,
)


@given(messages=MESSAGES, more=MESSAGES)
def test_each_turn_begins_with_the_one_before(messages: list[object], more: list[object]) -> None:
    """The text of a conversation is the beginning of the text of the conversation that goes on."""
    assert rendered({"messages": messages + more}).startswith(rendered({"messages": messages}))


@given(first=MESSAGES, second=MESSAGES)
def test_different_conversations_are_different_texts(
    first: list[object], second: list[object]
) -> None:
    """Roles and borders of messages are part of the text (made-up texts hold no control characters)."""
    if "\x1e" not in str(first + second) and "\x1f" not in str(first + second):
        assert (rendered({"messages": first}) == rendered({"messages": second})) == (
            first == second
        )


def image(url: str) -> dict[str, object]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, part]}]}


def test_images_stand_as_digests() -> None:
    """A large image takes little room, equal images are equal and different ones are not."""
    first, second = "data:" + "A" * 100_000 + "B", "data:" + "A" * 100_000 + "C"
    assert rendered(image(first)) == rendered(image(first))
    assert rendered(image(first)) != rendered(image(second))
    assert "what?" in rendered(image(first))
    assert len(rendered(image(first))) < 200


def test_tools_and_tool_calls_belong_to_the_text() -> None:
    """Tools come first; calls stand where the assistant made them."""
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "call-7"}]}
    text = rendered({"tools": [{"name": "clock"}], "messages": [message]})
    assert 0 < text.index("clock") < text.index("assistant") < text.index("call-7")


@pytest.mark.parametrize(
    ("prompt", "text"),
    [("one", "one"), (["one", "two"], "one\x1etwo\x1e"), ([], ""), (7, ""), ([[1], "x"], None)],
)
def test_every_shape_of_prompt(prompt: object, text: str | None) -> None:
    """Completions' prompts are text as they are; what is no prompt is nothing, and never an error."""
    found = rendered({"prompt": prompt})
    assert text is None or found == text


def test_token_ids_share_prefixes_too() -> None:
    """Ids that begin alike are texts that begin alike; ids out of range are nothing."""
    short, long = rendered({"prompt": [5, 70_000]}), rendered({"prompt": [5, 70_000, 9]})
    assert long.startswith(short)
    assert len(short) == 16
    assert rendered({"prompt": [2**70]}) == rendered({"prompt": [5, "x"]}) == ""


@pytest.mark.parametrize("content", ["x", 3, None, [None, {"text": 4}, "x"], {"a": "b"}])
def test_shapes_nobody_expects_are_no_error(content: object) -> None:
    """Whatever stands where messages are due, a text comes out: the replica is to refuse it."""
    assert isinstance(rendered({"messages": [{"content": content}, content]}), str)
    assert rendered({"messages": content if isinstance(content, str) else None}) == ""


def test_only_the_beginning_is_looked_at() -> None:
    """A prompt beyond the limit is cut there, across messages."""
    parts = [{"role": "user", "content": "x" * (MOST_CHARACTERS // 2)}] * 3
    assert len(rendered({"messages": parts})) == MOST_CHARACTERS


def test_a_query_works_its_prompt_out_once() -> None:
    """Text and blocks of a query are the same objects each time they are asked for."""
    query = Query("m", {"prompt": "x" * 100})
    assert query.prompt.blocks is query.prompt.blocks
    assert query.prompt.text is query.prompt.text
