"""Mixed load with clients that go away: memory stays level and nothing is left behind."""

import asyncio
import random
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

SOAK_SECONDS = 240
WARM_UP_SECONDS = 60
NUM_CLIENTS = 6
MOST_GROWTH_FRACTION = 0.05


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


async def visit(client: httpx.AsyncClient, generator: random.Random) -> int:
    """Send one random request, leaving some streams early; return the status."""
    body = {
        "model": "tiny",
        "prompt": "".join(generator.choices("abc(): \n", k=generator.randint(1, 300))),
        "max_tokens": generator.randint(1, 80),
        "temperature": generator.choice([0, 0.8]),
        "stream": generator.random() < 0.7,
    }
    if not body["stream"]:
        return (await client.post("/v1/completions", json=body)).status_code
    async with client.stream("POST", "/v1/completions", json=body) as response:
        leaves_after = generator.choice([None, 1, 5])
        count = 0
        async for _ in response.aiter_lines():
            count += 1
            if count == leaves_after:
                break
        return response.status_code


async def soak(url: str, pid: int) -> tuple[list[int], int, int]:
    """Return all statuses and the resident memory after warm-up and at the end."""
    loop = asyncio.get_running_loop()
    end = loop.time() + SOAK_SECONDS
    statuses: list[int] = []

    async def client_loop(seed: int) -> None:
        generator = random.Random(seed)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            while loop.time() < end:
                statuses.append(await visit(client, generator))

    async def after_warm_up() -> int:
        await asyncio.sleep(WARM_UP_SECONDS)
        return resident_bytes(pid)

    warm, *_ = await asyncio.gather(after_warm_up(), *(client_loop(i) for i in range(NUM_CLIENTS)))
    return statuses, warm, resident_bytes(pid)


@pytest.mark.soak
@pytest.mark.timeout(SOAK_SECONDS + 120)
def test_memory_stays_level_under_mixed_load(start_replica):
    """After minutes of random requests and disconnects memory is level and no sequence is left."""
    # Shared pages stay until others need theirs: the memory for them is full before it is measured.
    server, url = start_replica("replica", "--kv-memory", "64MiB")
    statuses, warm, end = asyncio.run(soak(url, server.pid))
    assert set(statuses) == {200}
    assert len(statuses) > 100
    assert end < warm * (1 + MOST_GROWTH_FRACTION)
    text = httpx.get(f"{url}/metrics").text
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert values["vllm:num_requests_running"] == values["vllm:num_requests_waiting"] == 0
