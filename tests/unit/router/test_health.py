"""Checks, passive reports, and shared refreshes."""

import asyncio
from collections.abc import Callable

import pytest

from router.config import HealthConfig, ModelConfig, ReplicaConfig
from router.errors import ReplicaFailedError
from router.fleet import Fleet
from router.health import Finding, HealthMonitor, check

LISTING = {"data": [{"id": "m"}, {"id": "adapter"}]}
MODEL = ModelConfig(name="m", replicas=(ReplicaConfig(url="http://a"),))


class ScriptedClient:
    """Answers control requests from a table of path → (status, body), or fails."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, object]] = {
            "/health": (200, None),
            "/v1/models": (200, LISTING),
        }
        self.num_requests = 0
        self.during: Callable[[], object] = lambda: None

    async def get_json(self, url: str, path: str, *, timeout_seconds: float) -> tuple[int, object]:
        self.num_requests += 1
        await asyncio.sleep(0)
        self.during()
        if path not in self.answers:
            raise ReplicaFailedError(url, "failed: refused")
        return self.answers[path]


class RememberingListener:
    """Remembers what checks said."""

    def __init__(self) -> None:
        self.passed: list[tuple[str, bool]] = []
        self.down: list[str] = []

    def check_passed(self, url: str, *, begun_at: float, was_down: bool) -> None:
        self.passed.append((url, was_down))

    def went_down(self, url: str) -> None:
        self.down.append(url)


@pytest.mark.parametrize(
    ("answers", "finding"),
    [
        (
            {"/health": (200, None), "/v1/models": (200, {"data": [{"id": "m"}]})},
            {"m": {"id": "m"}},
        ),
        ({"/health": (404, None), "/v1/models": (200, {"data": []})}, {}),
        ({"/health": (200, None), "/v1/models": (401, None)}, None),
        ({"/health": (200, None), "/v1/models": (200, {"data": ["m"]})}, None),
        ({"/health": (200, None), "/v1/models": (200, [])}, None),
    ],
)
async def test_healthy_findings(
    answers: dict[str, tuple[int, object]], finding: dict[str, object] | None
) -> None:
    """A healthy replica's list is taken where it has the right shape, and only there."""
    client = ScriptedClient()
    client.answers = answers
    assert await check(client, "http://a", timeout_seconds=1) == Finding(None, finding)


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ({}, "failed: refused"),
        ({"/health": (503, None)}, "/health answered 503"),
        (
            {"/health": (404, None), "/v1/models": (404, None)},
            "/health answered 404, /v1/models 404",
        ),
        ({"/health": (200, None)}, "failed: refused"),
    ],
)
async def test_unhealthy_findings(answers: dict[str, tuple[int, object]], problem: str) -> None:
    """A refused connection or a bad status is a problem with a reason."""
    client = ScriptedClient()
    client.answers = answers
    assert await check(client, "http://a", timeout_seconds=1) == Finding(problem, None)


async def test_threshold_and_recovery() -> None:
    """A replica goes out after the configured failures in a row and returns after one success."""
    fleet, client = Fleet([MODEL]), ScriptedClient()
    monitor = HealthMonitor(
        fleet, client, HealthConfig(failures_to_unhealthy=2), RememberingListener()
    )
    (replica,) = fleet.replicas
    await monitor.refresh()
    assert fleet.knows("adapter")
    client.answers = {}
    await monitor.refresh()
    assert replica.is_healthy
    await monitor.refresh()
    assert not replica.is_healthy
    client.answers = {"/health": (200, None), "/v1/models": (200, LISTING)}
    await monitor.refresh()
    assert replica.is_healthy


async def test_a_failed_request_wakes_the_check() -> None:
    """After a failure the next check comes at once, and its outcome is told."""
    fleet, client, told = Fleet([MODEL]), ScriptedClient(), RememberingListener()
    monitor = HealthMonitor(fleet, client, HealthConfig(interval_seconds=3600), told)
    async with monitor.running():
        num_passed = len(told.passed)
        monitor.check_soon("http://a")
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if len(told.passed) > num_passed:
                break
        assert told.passed[num_passed:] == [("http://a", False)]


async def test_going_down_and_coming_back_is_told() -> None:
    """Who listens is told once that a replica went down, and with the check that found it up."""
    fleet, client, told = Fleet([MODEL]), ScriptedClient(), RememberingListener()
    monitor = HealthMonitor(fleet, client, HealthConfig(failures_to_unhealthy=1), told)
    answers = client.answers
    for client.answers in ({}, {}, answers, answers):
        await monitor.refresh()
    assert told.down == ["http://a"]
    assert told.passed == [("http://a", True), ("http://a", False)]


async def test_concurrent_refreshes_share_a_round() -> None:
    """Callers that wait for a running round share the next one instead of queueing one each."""
    fleet, client = Fleet([MODEL]), ScriptedClient()
    monitor = HealthMonitor(
        fleet, client, HealthConfig(failures_to_unhealthy=1), RememberingListener()
    )
    first = asyncio.create_task(monitor.refresh())
    await asyncio.sleep(0)
    await asyncio.gather(first, *[monitor.refresh() for _ in range(50)])
    assert client.num_requests == 2 * 2


async def test_names_stay_known_while_a_replica_is_down() -> None:
    """An adapter of a replica that is down is still known, so that the answer is 503, not 404."""
    fleet, client = Fleet([MODEL]), ScriptedClient()
    monitor = HealthMonitor(
        fleet, client, HealthConfig(failures_to_unhealthy=1), RememberingListener()
    )
    await monitor.refresh()
    client.answers = {}
    await monitor.refresh()
    assert fleet.knows("adapter")
    assert fleet.candidates("adapter", excluding=()) == ()
