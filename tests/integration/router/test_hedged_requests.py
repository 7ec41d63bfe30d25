"""Second attempts at short requests whose first one is slow."""

import asyncio

import httpx
import pytest
from fakes import FakeReplica
from router_under_test import OpenRouter, ReadLines, metric

BODY = {"model": "tiny", "prompt": "x"}
SLOW_HEALTH = {"interval_seconds": 3600}
HEDGED = {"after_seconds": 0.1, "max_tokens": 8}
SHORT = {**BODY, "max_tokens": 8}


async def outstanding(client: httpx.AsyncClient, *replicas: FakeReplica) -> list[float]:
    """Return what runs on each replica, by the router's count."""
    return [await metric(client, "outstanding_requests", replica=each.url) for each in replicas]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_slow_replica_is_overtaken(
    open_router: OpenRouter, read_lines: ReadLines, stream: bool
) -> None:
    """A short request that gets no first byte is asked of a second replica; the first is left."""
    async with (
        FakeReplica(behaviour="hang") as slow,
        FakeReplica() as quick,
        open_router(slow, quick, health=SLOW_HEALTH, hedging=HEDGED) as client,
    ):
        for _ in range(2):
            answer = await client.post("/v1/completions", json={**SHORT, "stream": stream})
            assert answer.status_code == 200
        assert await metric(client, "hedges_total", result="second") >= 1
        assert await outstanding(client, slow, quick) == [0, 0]
    assert slow.num_cancelled == len(slow.requests) >= 1
    assert {line["replica"] for line in read_lines()} == {quick.url}


async def test_a_client_that_leaves_ends_both_attempts(open_router: OpenRouter) -> None:
    """No attempt outlives its request, and the places are given back."""
    async with (
        FakeReplica(behaviour="hang") as first,
        FakeReplica(behaviour="hang") as second,
        open_router(first, second, health=SLOW_HEALTH, hedging=HEDGED) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/completions", json=SHORT, timeout=0.5)
        for _ in range(500):
            if first.num_cancelled + second.num_cancelled == 2:
                break
            await asyncio.sleep(0.01)
        assert (first.num_cancelled, second.num_cancelled) == (1, 1)
        assert await outstanding(client, first, second) == [0, 0]


async def test_long_requests_are_not_hedged(open_router: OpenRouter) -> None:
    """A request that allows a long answer waits for its one replica."""
    async with (
        FakeReplica(delay_seconds=0.4) as first,
        FakeReplica(delay_seconds=0.4) as second,
        open_router(first, second, health=SLOW_HEALTH, hedging=HEDGED) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
    assert len(first.requests) + len(second.requests) == 1


async def test_a_refused_hedge_leaves_the_retries_alone(open_router: OpenRouter) -> None:
    """The budget is empty when the hedge is due, and has one more when the first attempt fails."""
    async with (
        FakeReplica(behaviour="refuse") as sick,
        FakeReplica() as well,
        open_router(
            sick,
            well,
            health={"interval_seconds": 0.05, "timeout_seconds": 1},
            breaker={"consecutive_failures": 1000, "failure_fraction": 1, "min_outcomes": 1000},
            policy={"kind": "round_robin"},
            hedging=HEDGED,
            retry={"budget_fraction": 0, "budget_floor_per_second": 0.5, "wait_seconds": 0},
        ) as client,
    ):
        for _ in range(200):
            if (await client.post("/v1/completions", json=SHORT)).status_code == 502:
                break  # the budget is used up
            await asyncio.sleep(0.01)  # for a check to clear the suspect
        refused = await metric(client, "retries_refused_total", reason="budget")
        assert refused >= 1
        await asyncio.sleep(0.3)  # for a check again; the budget has less than one meanwhile
        sick.delay_seconds = 2.5
        answers = await asyncio.gather(
            *[client.post("/v1/completions", json=SHORT) for _ in range(2)]
        )
        assert [answer.status_code for answer in answers] == [200, 200]
        assert await metric(client, "retries_refused_total", reason="budget") == refused + 1
