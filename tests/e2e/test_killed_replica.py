"""A real replica dies in the middle of load; the router saves what can be saved."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import httpx
import pytest

NUM_REQUESTS = 60
KILL_AFTER = 15


async def ask(client: httpx.AsyncClient, index: int) -> tuple[str, bool]:
    """Return how a request ended and whether it had begun to stream."""
    body = {
        "model": "tiny",
        "prompt": f"def function_{index}(",
        "max_tokens": 24,
        "temperature": 0,
        "stream": index % 2 == 0,
    }
    if not body["stream"]:
        response = await client.post("/v1/completions", json=body)
        return ("ok" if response.status_code == 200 else response.text), False
    received = b""
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            return (await response.aread()).decode(), False
        async for piece in response.aiter_bytes():
            received += piece
    return ("ok" if received.endswith(b"data: [DONE]\n\n") else received.decode()), True


async def load(url: str, kill) -> list[tuple[str, bool]]:
    limit = asyncio.Semaphore(8)
    done = 0

    async def one(client: httpx.AsyncClient, index: int) -> tuple[str, bool]:
        nonlocal done
        async with limit:
            result = await ask(client, index)
        done += 1
        if done == KILL_AFTER:
            kill()
        return result

    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        return await asyncio.gather(*(one(client, index) for index in range(NUM_REQUESTS)))


def traffic_lines(file: Path) -> list[dict]:
    """Return the log once every request has its line: the last is written after the body ends."""
    deadline = time.monotonic() + 10
    while True:
        text = file.read_text()
        num_whole = text.count("\n")
        if num_whole >= NUM_REQUESTS:
            return [json.loads(line) for line in text.splitlines()]
        if time.monotonic() > deadline:
            pytest.fail(f"{num_whole} of {NUM_REQUESTS} requests have a line after 10 s")
        time.sleep(0.05)


def test_no_request_fails_that_had_not_begun_to_stream(start_replica, start_router, tmp_path):
    """After a SIGKILL only streams under way on the dead replica break, each with an error event."""
    victim, victim_url = start_replica("victim")
    _, survivor_url = start_replica("survivor")
    url = start_router([victim_url, survivor_url])
    results = asyncio.run(load(url, lambda: os.kill(victim.pid, signal.SIGKILL)))
    broken = [text for text, _ in results if text != "ok"]
    assert all(had_begun for text, had_begun in results if text != "ok")
    assert all('"error"' in text for text in broken)
    assert len(broken) <= 8
    log = traffic_lines(tmp_path / "traffic.jsonl")
    assert len(log) == NUM_REQUESTS
    assert sum(line["status"] == 200 for line in log) == NUM_REQUESTS - len(broken)
    assert all(line["completion_tokens"] for line in log if line["status"] == 200)
    assert any(line["replica"] == victim_url and line["status"] == 200 for line in log)
