"""A router over two scripted models, and what is asked of it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from minions_models import QUESTION, ScriptedModel, direct, read_part
from router_under_test import FAST_HEALTH, OpenRouter

NAME = "minions/reader+director"
CHAT = "minion/reader+director"


def body(document: str, **more: object) -> dict[str, object]:
    """Return a request about `document`."""
    messages = [{"role": "user", "content": QUESTION}]
    return {"model": NAME, "messages": messages, "documents": [document], **more}


@asynccontextmanager
async def pair(
    open_router: OpenRouter, *, local=read_part, remote=direct, **minions: object
) -> AsyncIterator[tuple[httpx.AsyncClient, ScriptedModel, ScriptedModel]]:
    """Yield a client of a router over two scripted models, and the models."""
    async with (
        ScriptedModel("reader", local) as reader,
        ScriptedModel("director", remote) as director,
        open_router(reader, director, minions=minions, health=FAST_HEALTH) as client,
    ):
        yield client, reader, director


async def ask(client: httpx.AsyncClient, content: dict[str, object]) -> dict:
    """Return the JSON of an answer."""
    response = await client.post("/v1/chat/completions", json=content)
    assert response.status_code == 200, response.text
    return response.json()


def text_of(answer: dict) -> str:
    """Return the answer's text."""
    return answer["choices"][0]["message"]["content"]
