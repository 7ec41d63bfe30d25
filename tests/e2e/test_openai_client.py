"""The official client against a real `motley serve` process."""

import json

import httpx
import openai
import pytest


@pytest.fixture
def client(replica_url):
    with openai.OpenAI(base_url=f"{replica_url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_official_client_works(client, tiny_family):
    """Models, completions, chats, streams, usage and errors are what the SDK expects."""
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"

    whole = client.completions.create(model="tiny", prompt="import ", max_tokens=9, temperature=0)
    stream = client.completions.create(
        model="tiny", prompt="import ", max_tokens=9, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
    assert whole.usage.completion_tokens == 9

    messages = [{"role": "user", "content": "Return the length."}]
    chat = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=9, temperature=0
    )
    chunks = list(
        client.chat.completions.create(
            model="tiny",
            messages=messages,
            max_tokens=9,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == chat.choices[0].message.content
    assert chunks[-1].usage == chat.usage

    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist"):
        client.completions.create(model="gpt-9", prompt="x")
    with pytest.raises(openai.BadRequestError, match="context of 1024"):
        client.completions.create(model="tiny", prompt="x", max_tokens=10_000)

    busy = httpx.URL(str(client.base_url)).port
    refuse_a_busy_port(busy, tiny_family)


def refuse_a_busy_port(port: int, tiny_family) -> None:
    """A second server on the same port ends at once with one line."""
    import motley

    words = ["serve", str(tiny_family / "target"), "--port", str(port)]
    assert motley.main(words) == 2


WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
MESSAGES = [{"role": "user", "content": "What is the weather in Rome?"}]


def test_the_official_client_has_every_endpoint(client):
    """Choices, log-probabilities, tools, schemas, responses and embeddings parse into its types."""
    ask_for_choices(client)
    ask_for_calls(client)
    ask_for_responses(client)
    vectors = client.embeddings.create(model="tiny", input=["import os", "class A"])
    assert len(vectors.data) == 2
    assert sum(value * value for value in vectors.data[0].embedding) == pytest.approx(1, abs=1e-3)


def ask_for_choices(client) -> None:
    """Several choices with log-probabilities, chats and completions."""
    chat = client.chat.completions.create(
        model="tiny", messages=MESSAGES, n=2, max_tokens=5, seed=1, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in chat.choices] == [0, 1]
    assert len(chat.choices[1].logprobs.content[0].top_logprobs) == 2
    text = client.completions.create(
        model="tiny", prompt=["a = ", "b = "], max_tokens=4, logprobs=1, echo=True
    )
    assert text.choices[1].text.startswith("b = ")
    assert text.choices[0].logprobs.token_logprobs[0] is None


def ask_for_calls(client) -> None:
    """A required call, whole and as the client's own stream accumulates it."""
    function = {"name": "weather", "parameters": WEATHER, "strict": True}
    asked = {
        "model": "tiny",
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "temperature": 0,
        "max_tokens": 120,
    }
    call = client.chat.completions.create(**asked).choices[0].message.tool_calls[0]
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    with client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.tool_calls[0].function.arguments == call.function.arguments
    assert final.choices[0].finish_reason == "tool_calls"


def ask_for_responses(client) -> None:
    """A response and its events, as the client's stream accumulates them."""
    wanted = {"format": {"type": "json_schema", "name": "weather", "schema": WEATHER}}
    asked = {"model": "tiny", "input": "Rome?", "temperature": 0, "text": wanted}
    whole = client.responses.create(**asked, max_output_tokens=600)
    assert json.loads(whole.output_text)["city"] in ("Oslo", "Rome")
    with client.responses.stream(**asked, max_output_tokens=600) as stream:
        final = stream.get_final_response()
    assert final.output_text == whole.output_text
    assert final.usage.total_tokens == whole.usage.total_tokens
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(model="tiny", input="x", previous_response_id="resp_1")
