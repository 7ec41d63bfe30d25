"""The official client against the router."""

from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from fakes import FakeReplica
from router_under_test import OpenRouter

MESSAGES = [{"role": "user", "content": "x"}]


@pytest.fixture
async def replica() -> AsyncIterator[FakeReplica]:
    """Yield a running replica."""
    async with FakeReplica() as running:
        yield running


def sdk(client: httpx.AsyncClient) -> openai.AsyncOpenAI:
    """Return the official client for the router behind `client`."""
    return openai.AsyncOpenAI(base_url=str(client.base_url.join("/v1")), api_key="k", max_retries=0)


async def test_streams(open_router: OpenRouter, replica: FakeReplica) -> None:
    """A stream has choices in every chunk unless usage was asked for."""
    async with open_router(replica) as client, sdk(client) as api:
        stream = await api.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        chunks = [chunk async for chunk in stream]
        assert all(chunk.choices for chunk in chunks)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "def main():"
        stream = await api.chat.completions.create(
            model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        last = [chunk async for chunk in stream][-1]
        assert last.usage is not None
        assert last.usage.completion_tokens == 5


async def test_whole_answers_and_models(open_router: OpenRouter, replica: FakeReplica) -> None:
    """Whole answers and the model list parse."""
    async with open_router(replica) as client, sdk(client) as api:
        answer = await api.chat.completions.create(model="tiny", messages=MESSAGES)
        assert answer.choices[0].message.content == "def main():"
        assert answer._request_id
        assert [model.id async for model in api.models.list()] == ["tiny"]
        assert (await api.models.retrieve("tiny")).id == "tiny"


async def test_errors_become_the_sdks_own(open_router: OpenRouter, replica: FakeReplica) -> None:
    """Unknown models and broken streams raise what the client documents."""
    async with open_router(replica) as client, sdk(client) as api:
        with pytest.raises(openai.NotFoundError, match="use one of: tiny") as caught:
            await api.chat.completions.create(model="none", messages=MESSAGES)
        assert caught.value.param == "model"
        replica.behaviour = "die_mid_stream"
        stream = await api.chat.completions.create(model="tiny", messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match=r"stream of replica .* broke"):
            _ = [chunk async for chunk in stream]
