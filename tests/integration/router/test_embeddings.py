"""Pools' requests whose prompts are embedded by another server, and what becomes of them without."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from embedded_prompts import disguised_prompts, embedded_predictor, questions
from fake_embedder import FakeEmbedder
from fakes import FakeReplica, served
from router_under_test import OpenRouter, ReadLines, metric

from router.prediction.predictor_file import write_predictor

CHAT = "/v1/chat/completions"
RECORDS = disguised_prompts(8, seed=11)


def asking(text: str, *, model: str = "auto") -> dict[str, Any]:
    """Return a chat body."""
    return {"model": model, "messages": [{"role": "user", "content": text}]}


async def pick(client: httpx.AsyncClient, text: str) -> str:
    """Return the model that `auto` became."""
    answer = await client.post(CHAT, json=asking(text), headers={"authorization": "Bearer client"})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-motley-model"]


@pytest.fixture
def choice(tmp_path: Path) -> dict[str, Any]:
    """Return `model_choice` with a predictor that looks at embeddings."""
    write_predictor(embedded_predictor(), tmp_path / "predictor.npz")
    return {"predictor": str(tmp_path / "predictor.npz")}


@asynccontextmanager
async def opened(
    open_router: OpenRouter, choice: dict[str, Any], url: str | None, **embeddings: object
) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a router before a coder and a poet that embeds at `url`."""
    if url is not None:
        choice = {**choice, "embeddings": {"url": url, **embeddings}}
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        open_router(coder, poet, model_choice=choice) as client,
    ):
        yield client


async def test_prompts_are_judged_by_their_embeddings(
    open_router: OpenRouter, choice: dict[str, Any], tmp_path: Path
) -> None:
    """Words never seen go to the right model; the text goes out without flags, with its own key."""
    (tmp_path / "key").write_text("secret")
    embedder = FakeEmbedder(key="secret")
    more = {"timeout_seconds": 20, "api_key_file": str(tmp_path / "key")}
    async with served(embedder.app) as url, opened(open_router, choice, url, **more) as client:
        for record in RECORDS:
            best = max(record["scores"].items(), key=lambda one: one[1])[0]  # type: ignore[attr-defined]
            assert await pick(client, f"{record['question']} [Flag: newest=0]") == best
        assert (await client.post(CHAT, json=asking("x", model="poet"))).status_code == 200
        assert await pick(client, "")
        assert await metric(client, "embedding_failures_total") == 0
    assert embedder.bodies == [
        {"model": "embedder", "input": [text], "encoding_format": "base64"}
        for text in questions(RECORDS)
    ]


@pytest.mark.parametrize(
    ("embedder", "reason"),
    [
        (FakeEmbedder(delay_seconds=30), "timeout"),
        (FakeEmbedder(status=503), "unreachable"),
        (FakeEmbedder(status=429), "unusable"),
        (FakeEmbedder(length=3), "unusable"),
        (FakeEmbedder(most_characters=3), "refused"),
    ],
)
async def test_without_an_embedding_requests_go_on(
    open_router: OpenRouter,
    choice: dict[str, Any],
    embedder: FakeEmbedder,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each one is answered and counted, one line a minute tells why, and none quotes the prompt."""
    seconds = 0.1 if reason == "timeout" else 20
    async with (
        served(embedder.app) as url,
        opened(open_router, choice, url, timeout_seconds=seconds) as client,
        asyncio.timeout(25),
    ):
        for text in questions(RECORDS[:3]):
            assert await pick(client, text) in ("coder", "poet")
        assert await metric(client, "embedding_failures_total", reason=reason) == 3
    told = [one.getMessage() for one in caplog.records if "no embedding" in one.getMessage()]
    assert len(told) == 1
    assert f"reason={reason}" in told[0]
    assert not any(word in caplog.text for word in str(RECORDS[0]["question"]).split())


async def test_a_server_that_is_down_is_unreachable(
    open_router: OpenRouter, choice: dict[str, Any]
) -> None:
    """Nothing listens there any more, and answers go on."""
    async with served(FakeEmbedder().app) as url:
        pass
    async with opened(open_router, choice, url, timeout_seconds=20) as client:
        assert await pick(client, "x") in ("coder", "poet")
        assert await metric(client, "embedding_failures_total", reason="unreachable") == 1


async def test_a_client_that_leaves_ends_the_wait(
    open_router: OpenRouter, choice: dict[str, Any], read_lines: ReadLines
) -> None:
    """The request for its embedding ends with it, and no replica is asked."""
    embedder = FakeEmbedder(delay_seconds=60)
    async with (
        served(embedder.app) as url,
        opened(open_router, choice, url, timeout_seconds=60) as client,
        asyncio.timeout(25),
    ):
        waiting = asyncio.create_task(client.post(CHAT, json=asking("x")))
        while not embedder.bodies:
            await asyncio.sleep(0.01)
        waiting.cancel()
        while not (lines := read_lines()):
            await asyncio.sleep(0.01)
        assert [line["status"] for line in lines] == [499]
        assert await metric(client, "embedding_failures_total") == 0


async def test_what_does_not_go_together_is_told_at_the_start(
    open_router: OpenRouter, choice: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and the router serves: without a server by words, without use for it without asking."""
    with caplog.at_level(logging.WARNING):
        async with opened(open_router, choice, None) as client:
            assert await pick(client, "x") in ("coder", "poet")
            assert await pick(client, "y") in ("coder", "poet")
        assert caplog.text.count("model_choice.embeddings missing") == 1
        embedder = FakeEmbedder()
        by_goals = {"pools": {"auto": ["coder", "poet"]}}
        async with (
            served(embedder.app) as url,
            opened(open_router, by_goals, url) as client,
        ):
            assert await pick(client, "x") == "coder"
    assert caplog.text.count("model_choice.embeddings not used") == 1
    assert not embedder.bodies
