"""When the server of embeddings is asked, left alone, and asked again."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from embedded_prompts import embedded_predictor, embedding_of
from prometheus_client import CollectorRegistry

from router.choice_config import EmbeddingsConfig
from router.choice_metrics import ChoiceMetrics
from router.embedder import TELL_SECONDS, Embedder
from router.errors import ReplicaTimeoutError
from router.prediction.embedding_map import EmbeddingMap
from router.upstream import Upstream

CONFIG = EmbeddingsConfig(url="http://h:1")


@dataclass
class Reply:
    """What an upstream answers."""

    status: int = 200
    is_stream: bool = False
    body: bytes = b""

    def close(self) -> None:
        """Do nothing."""


@dataclass
class FakeUpstream:
    """Answers by script and counts; a clock beside it."""

    reply: Reply | None = None
    hangs: bool = False
    now: float = 0.0
    bodies: list[bytes] = field(default_factory=list)

    async def send(self, url: str, target: str, **more: Any) -> Reply:
        """Answer, or time out where there is no reply."""
        self.bodies.append(more["body"])
        if self.hangs:
            await asyncio.sleep(3600)
        if self.reply is None:
            raise ReplicaTimeoutError(url, "sent no first byte")
        return self.reply


def _answer(text: str) -> Reply:
    numbers = ", ".join(str(float(one)) for one in embedding_of(text))
    return Reply(body=f'{{"data": [{{"index": 0, "embedding": [{numbers}]}}]}}'.encode())


def _embedder(upstream: FakeUpstream) -> tuple[Embedder, CollectorRegistry]:
    registry = CollectorRegistry()
    wanted = cast("EmbeddingMap", embedded_predictor().embedding)
    client = cast("Upstream", upstream)
    metrics = ChoiceMetrics(registry)
    return Embedder(CONFIG, wanted, client, metrics, monotonic=lambda: upstream.now), registry


def _count(registry: CollectorRegistry, reason: str) -> float:
    name = "motley_router_embedding_failures_total"
    return registry.get_sample_value(name, {"reason": reason}) or 0.0


async def test_a_server_that_fails_is_left_alone_for_a_while() -> None:
    """After three timeouts requests no longer wait; a probe that is answered ends the pause."""
    upstream = FakeUpstream()
    embedder, registry = _embedder(upstream)
    for _ in range(5):
        assert await embedder.embed("river") is None
    assert (_count(registry, "timeout"), _count(registry, "paused")) == (3, 2)
    assert len(upstream.bodies) == 3
    upstream.now, upstream.reply = 1.5, _answer("river")
    for _ in range(2):
        vector = await embedder.embed("river")
        assert vector is not None
        np.testing.assert_allclose(vector, embedding_of("river"), atol=1e-6)
    assert len(upstream.bodies) == 5


async def test_refused_texts_are_not_the_servers_fault() -> None:
    """However many are too long, the next one is asked about."""
    upstream = FakeUpstream(Reply(status=400))
    embedder, registry = _embedder(upstream)
    for _ in range(9):
        assert await embedder.embed("river") is None
    assert _count(registry, "refused") == 9
    assert len(upstream.bodies) == 9


async def test_failures_are_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """With the reason, and without the text."""
    upstream = FakeUpstream(Reply(status=200, body=b"{}"))
    embedder, registry = _embedder(upstream)
    with caplog.at_level(logging.WARNING):
        for upstream.now in (0.0, 1.0, TELL_SECONDS - 1, TELL_SECONDS + 1):
            await embedder.embed("river")
    told = [record for record in caplog.records if record.name == "router.embedder"]
    assert len(told) == 2
    assert "reason=unusable" in caplog.text
    assert "river" not in caplog.text
    assert _count(registry, "unusable") == 4


async def test_a_wait_that_is_cancelled_says_nothing_of_the_server() -> None:
    """Nothing is counted, and an empty text is not sent at all."""
    upstream = FakeUpstream(hangs=True)
    embedder, registry = _embedder(upstream)
    for _ in range(9):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(embedder.embed("river"), 0.001)
    assert await embedder.embed("  ") is None
    assert len(upstream.bodies) == 9
    assert not any(_count(registry, reason) for reason in ("timeout", "paused", "unusable"))
