"""Planned weights through a whole router, on fake replicas."""

import asyncio

import httpx
from fakes import FakeReplica, served
from router_under_test import FAST_HEALTH
from scipy.stats import chisquare

from router.config import RouterConfig
from router.gateway import open_gateway
from router.traffic_log import TrafficLog

BODY = {"model": "tiny", "prompt": "def main():", "max_tokens": 5}
NUM_REQUESTS = 600


def configuration(**replicas: FakeReplica) -> RouterConfig:
    """Return a router file: offer `a` for three quarters of the requests, `b` for the rest."""
    return RouterConfig.model_validate(
        {
            "models": [
                {
                    "name": "tiny",
                    "replicas": [
                        {"url": replica.url, "offer": name[0]} for name, replica in replicas.items()
                    ],
                    "weights": [{"input_tokens_up_to": 64, "weights": {"a": 750, "b": 250}}],
                }
            ],
            "health": FAST_HEALTH,
        }
    )


async def ask(client: httpx.AsyncClient, num_requests: int) -> None:
    """Send requests, eight at a time; every one must succeed."""
    limit = asyncio.Semaphore(8)

    async def one() -> None:
        async with limit:
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200

    await asyncio.gather(*[one() for _ in range(num_requests)])


async def test_shares_are_met_and_an_ejected_offer_is_replaced() -> None:
    """600 requests split three to one (chi-square); when `a` dies `b` takes all, and it is counted."""
    async with FakeReplica() as first, FakeReplica() as second, FakeReplica() as other:
        config = configuration(a1=first, a2=second, b=other)
        async with (
            open_gateway(config, TrafficLog(None)) as application,
            served(application) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as client,
        ):
            await ask(client, NUM_REQUESTS)
            counts = [len(replica.requests) for replica in (first, second, other)]
            split = [counts[0] + counts[1], counts[2]]
            assert chisquare(split, [450, 150]).pvalue > 1e-4
            assert abs(counts[0] - counts[1]) < 60
            first.kill()
            second.kill()
            await ask(client, 40)
            assert len(other.requests) == counts[2] + 40
            metrics = (await client.get("/metrics")).text
    assert 'offer="a",reason="planned_weights"' in metrics
    assert 'offer="b",reason="other_offer"' in metrics
    assert 'motley_router_requests_total{model="tiny",status="200"} 640.0' in metrics
    assert f'motley_router_replica_healthy{{replica="{other.url}"}} 1.0' in metrics
    assert f'motley_router_replica_healthy{{replica="{first.url}"}} 0.0' in metrics


async def test_the_ratio_is_learnt_from_answers() -> None:
    """The fake counts 7 tokens in 11 bytes; the router's estimate moves there from a quarter."""
    async with FakeReplica() as first, FakeReplica() as other:
        config = configuration(a=first, b=other)
        async with (
            open_gateway(config, TrafficLog(None)) as application,
            served(application) as url,
            httpx.AsyncClient(base_url=url, timeout=30) as client,
        ):
            await ask(client, 200)
            metrics = (await client.get("/metrics")).text
    line = next(row for row in metrics.splitlines() if row.startswith("motley_router_tokens_per"))
    assert 0.35 < float(line.split()[-1]) < 7 / 11
