"""Policies, limits and prefixes through a whole router, on fake replicas."""

import asyncio

import httpx
import pytest
from fakes import FakeReplica, served
from router_under_test import OpenRouter

from router.config import RouterConfig
from router.gateway import open_gateway
from router.traffic_log import TrafficLog

SYSTEM = {"role": "system", "content": "You are a careful reader of contracts. " * 20}


def chat(*texts: str) -> dict[str, object]:
    messages = [SYSTEM, *({"role": "user", "content": text} for text in texts)]
    return {"model": "tiny", "messages": messages, "max_tokens": 5}


@pytest.mark.parametrize(
    "kind", ["prefix_aware", "bounded_load", "round_robin", "least_outstanding", "power_of_two"]
)
async def test_every_policy_serves(open_router: OpenRouter, kind: str) -> None:
    """Each kind of the configuration answers requests and leaves nothing outstanding."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        open_router(first, second, policy={"kind": kind}) as client,
    ):
        answers = await asyncio.gather(
            *[client.post("/v1/chat/completions", json=chat(str(n) * 80)) for n in range(12)]
        )
        metrics = (await client.get("/metrics")).text
    assert {answer.status_code for answer in answers} == {200}
    for replica in (first, second):
        assert f'motley_router_outstanding_requests{{replica="{replica.url}"}} 0.0' in metrics
        assert f'motley_router_outstanding_tokens{{replica="{replica.url}"}} 0.0' in metrics


async def test_a_conversation_stays_where_it_began(open_router: OpenRouter) -> None:
    """By default each turn goes to the replica that has read the turns before; it is counted."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        FakeReplica() as third,
        open_router(first, second, third) as client,
    ):
        for length in range(1, 7):
            body = chat(*("turn " * 40 for _ in range(length)))
            assert (await client.post("/v1/chat/completions", json=body)).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert sorted(len(each.requests) for each in (first, second, third)) == [0, 0, 6]
    assert 'motley_router_picks_total{model="tiny",offer="",reason="prefix"} 5.0' in metrics
    assert 'motley_router_held_characters_total{model="tiny"}' in metrics


async def test_full_replicas_are_a_429_that_names_the_filter() -> None:
    """At `max_outstanding` everywhere the next request is refused with `Retry-After`, not sent."""
    async with FakeReplica(delay_seconds=1.0) as replica:
        entry = {"url": replica.url, "max_outstanding": 1}
        config = RouterConfig.model_validate({"models": [{"name": "tiny", "replicas": [entry]}]})
        async with (
            open_gateway(config, TrafficLog(None)) as application,
            served(application) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as client,
        ):
            running = asyncio.create_task(client.post("/v1/chat/completions", json=chat("a")))
            while not replica.requests:
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/chat/completions", json=chat("b"))
            assert (await running).status_code == 200
            assert (await client.post("/v1/chat/completions", json=chat("c"))).status_code == 200
            metrics = (await client.get("/metrics")).text
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert "filter: room" in refused.json()["error"]["message"]
    assert len(replica.requests) == 2
    assert 'motley_router_no_candidates_total{filter="room",model="tiny"} 1.0' in metrics
