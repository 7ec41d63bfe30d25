"""An endpoint over the shipped models, in process, with or without drafts."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from serving.answers import AnswerService
from serving.app import build_app
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.runner import EngineRunner

EOS_IDS = frozenset({0, 3})


@asynccontextmanager
async def served(
    target, tokenizer, draft=None, *, max_waiting=64
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of an endpoint that serves `target` as `tiny`."""
    limits = EngineLimits(kv_bytes=1 << 28, max_sequences=8, max_waiting=max_waiting)
    drafter = None if draft is None else ChainDrafter(draft)
    runner = EngineRunner(
        Engine(target, drafter, num_draft_tokens=3, limits=limits, eos_ids=EOS_IDS)
    )
    runner.start()
    service = AnswerService(runner, tokenizer, model_name="tiny")
    transport = httpx.ASGITransport(app=build_app(service, runner))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", timeout=120
    ) as client:
        yield client
    runner.stop()
    runner.engine.check_idle()


async def post(client: httpx.AsyncClient, path: str, body: dict) -> dict:
    """Return the JSON of a request that is answered."""
    response = await client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


async def events(client: httpx.AsyncClient, path: str, body: dict) -> list[dict]:
    """Return the events of a streamed answer, which ends as OpenAI's do."""
    response = await client.post(path, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.split("\n") if line.startswith("data: ")]
    if path != "/v1/responses":
        assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]
