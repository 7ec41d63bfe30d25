"""Two thousand mixed requests, clients that go away: memory is level, nothing is left behind."""

import asyncio
import logging
import random
import statistics
from collections import deque

import httpx
import pytest
from endpoint_watch import idle_metrics, resident_bytes

logger = logging.getLogger(__name__)

NUM_REQUESTS = 2000
NUM_WARM_UP = 800
NUM_CLIENTS = 6
MOST_GROWTH_FRACTION = 0.02
LEVEL_SECONDS = 30
"""The engine gives free memory back every so often: a level is the median of that long."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
DRAFTS = {"chain": [], "tree": ["--draft-tree", "4x12"]}


def random_body(generator: random.Random) -> dict:
    """Return a request of any length, greedy or sampled, streamed or not, some with a schema."""
    body = {
        "model": "tiny",
        "prompt": "".join(generator.choices("abc(): \n", k=generator.randint(1, 300))),
        "max_tokens": generator.randint(1, 80),
        "temperature": generator.choice([0, 0.8]),
        "stream": generator.random() < 0.7,
    }
    if generator.random() < 0.2:
        body["structured_outputs"] = {"json": SCHEMA}
    return body


async def visit(client: httpx.AsyncClient, generator: random.Random) -> int:
    """Send one random request, leaving some streams early; return the status."""
    body = random_body(generator)
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


async def load(url: str, pid: int, num_requests: int, seed: int) -> tuple[set[int], float]:
    """Send requests from several clients at once; return the statuses and the level of memory."""
    seeds = iter(range(num_requests))
    statuses: set[int] = set()
    samples: deque[int] = deque(maxlen=2 * LEVEL_SECONDS)

    async def client_loop() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            for number in seeds:
                statuses.add(await visit(client, random.Random(f"{seed} {number}")))

    async def watch() -> None:
        while True:
            samples.append(resident_bytes(pid))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client_loop() for _ in range(NUM_CLIENTS)))
    watching.cancel()
    return statuses, statistics.median(samples)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("drafts", DRAFTS)
def test_memory_stays_level_under_mixed_load(start_replica, drafts):
    """Once warm, random requests and disconnects take no memory and leave no page in use."""
    # Shared pages stay until others need theirs: the memory for them is full before it is measured.
    server, url = start_replica("replica", "--kv-memory", "64MiB", *DRAFTS[drafts])
    warm_statuses, warm_bytes = asyncio.run(load(url, server.pid, NUM_WARM_UP, seed=0))
    rest = NUM_REQUESTS - NUM_WARM_UP
    statuses, end_bytes = asyncio.run(load(url, server.pid, rest, seed=1))
    assert statuses | warm_statuses == {200}
    logger.info("soak bytes=%d growth_fraction=%.4f", warm_bytes, end_bytes / warm_bytes - 1)
    assert end_bytes < warm_bytes * (1 + MOST_GROWTH_FRACTION)
    values = idle_metrics(url)
    assert values["vllm:kv_cache_usage_perc"] == 0
    assert values["vllm:spec_decode_num_accepted_tokens_total"] > 0
    assert values["motley:failed_requests_total"] == 0
