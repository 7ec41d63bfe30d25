"""The official client against a real `motley serve` process."""

import httpx
import openai
import pytest


@pytest.fixture
def client(start_replica):
    _, url = start_replica("replica")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
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
