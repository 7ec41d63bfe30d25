"""A replica dies under load."""

import asyncio
from collections import Counter

import httpx
from fakes import FakeReplica
from router_under_test import OpenRouter, ReadLines

NUM_REQUESTS = 200
STREAM = {"model": "tiny", "prompt": "x", "stream": True}
WORDS = tuple("abcdefgh")


async def test_kill_one_of_two_replicas_under_load(
    open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """No request that had not started streaming fails when one of two replicas is killed."""
    script = {"words": WORDS, "delay_seconds": 0.1, "pause_seconds": 0.02}
    async with (
        FakeReplica(**script) as doomed,
        FakeReplica(**script) as survivor,
        # On a busy machine this one process takes its time to accept 200 connections.
        open_router(doomed, survivor, timeouts={"connect_seconds": 60}) as client,
    ):

        async def request(index: int) -> str:
            await asyncio.sleep(index * 0.003)
            return await _outcome(client, STREAM if index % 3 else {**STREAM, "stream": False})

        async def kill() -> None:
            await asyncio.sleep(0.3)
            doomed.kill()

        limits = [request(index) for index in range(NUM_REQUESTS)]
        *outcomes, _ = await asyncio.gather(*limits, kill())
    counts = Counter(outcomes)
    assert set(counts) <= {"complete", "broken after its first byte"}
    assert counts["complete"] > NUM_REQUESTS / 2
    lines = read_lines()
    assert len(lines) == NUM_REQUESTS
    assert any(line["retries"] == 1 for line in lines)
    broken = [line for line in lines if line["status"] != 200]
    assert len(broken) == counts["broken after its first byte"]
    assert all(line["ttft_seconds"] is not None for line in broken)
    assert {line["replica"] for line in broken} <= {doomed.url}


async def _outcome(client: httpx.AsyncClient, body: dict[str, object]) -> str:
    answer = await client.post("/v1/completions", json=body)
    if answer.status_code != 200:
        return f"status {answer.status_code}: {answer.text}"
    if not body["stream"]:
        return "complete" if answer.json()["usage"]["completion_tokens"] == len(WORDS) else "short"
    events = answer.text.removesuffix("\n\n").split("\n\n")
    if events[-1] == "data: [DONE]":
        return "complete" if len(events) == len(WORDS) + 3 else "short"
    is_told = events[-1].startswith('data: {"error":') and len(events) > 1
    return "broken after its first byte" if is_told else f"ended with {events[-1]}"
