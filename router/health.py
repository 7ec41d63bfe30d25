"""Which replicas are healthy, and what they list: active checks at an interval, and at once after a failure."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from router.config import HealthConfig
from router.errors import ReplicaError
from router.fleet import Fleet
from router.replica import Replica

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    problem: str | None
    """Why the replica is not healthy, or None if it is."""
    models: Mapping[str, Mapping[str, object]] | None
    """What it lists, by name; None if it did not say."""


class ControlClient(Protocol):
    """What a check needs of the HTTP client."""

    async def get_json(self, url: str, path: str, *, timeout_seconds: float) -> tuple[int, object]:
        """Return status and parsed body, or raise `ReplicaError`."""
        ...


async def check(client: ControlClient, url: str, *, timeout_seconds: float) -> Finding:
    """Ask a replica how it is and what it serves.

    A server without `/health` (404) is judged by `/v1/models`.
    """
    try:
        status, _ = await client.get_json(url, "/health", timeout_seconds=timeout_seconds)
        if status not in (200, 404):
            return Finding(problem=f"/health answered {status}", models=None)
        list_status, listing = await client.get_json(
            url, "/v1/models", timeout_seconds=timeout_seconds
        )
    except ReplicaError as error:
        return Finding(problem=error.problem, models=None)
    if status == 404 and list_status != 200:
        return Finding(problem=f"/health answered 404, /v1/models {list_status}", models=None)
    return Finding(problem=None, models=_entries(listing) if list_status == 200 else None)


@dataclass(frozen=True, slots=True)
class _Watch:
    """The checks of one replica at its interval."""

    task: asyncio.Task[None]
    wake: asyncio.Event
    """Set to have the next check at once."""


class CheckListener(Protocol):
    """Who is told what checks say besides the fleet."""

    def check_passed(self, url: str, *, begun_at: float, was_down: bool) -> None:
        """Take in a check that found the replica well; monotonic seconds."""
        ...

    def went_down(self, url: str) -> None:
        """Take in that checks have found the replica down."""
        ...


class HealthMonitor:
    """Keeps the fleet's health and model lists current; the only writer of both."""

    def __init__(
        self,
        fleet: Fleet,
        client: ControlClient,
        config: HealthConfig,
        listener: CheckListener,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fleet = fleet
        self._client = client
        self._config = config
        self._listener = listener
        self._monotonic = monotonic
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_running = False
        self._silent: set[str] = set()
        self._refresh_lock = asyncio.Lock()
        self._refreshed_at = float("-inf")
        fleet.when_removed(self._forget)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Check every replica once, then each at its interval until the block ends or it leaves."""
        await self.refresh()
        self._is_running = True
        self.follow()
        try:
            yield
        finally:
            self._is_running = False
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def configure(self, config: HealthConfig) -> None:
        """Go by other settings from the next check of each replica on."""
        self._config = config
        for watch in self._watches.values():
            watch.wake.set()

    def follow(self) -> None:
        """Watch the replicas that have come since."""
        for replica in self._fleet.replicas if self._is_running else ():
            if replica.url not in self._watches:
                wake = asyncio.Event()
                task = asyncio.create_task(self._watch(replica, wake))
                self._watches[replica.url] = _Watch(task, wake)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(_report_crash)

    async def welcome(self, newcomers: Iterable[Replica]) -> None:
        """Watch replicas that have just come, and return when each has been checked once."""
        self.follow()
        await asyncio.gather(*[self._check(replica) for replica in newcomers])

    async def refresh(self) -> None:
        """Check every replica now; callers that wait for one another share a round."""
        asked_at = self._monotonic()
        async with self._refresh_lock:
            if self._refreshed_at >= asked_at:
                return
            started_at = self._monotonic()
            await asyncio.gather(*[self._check(replica) for replica in self._fleet.replicas])
            self._refreshed_at = started_at

    def check_soon(self, url: str) -> None:
        """Have a replica checked at once: a request has failed on it."""
        if url in self._watches:
            self._watches[url].wake.set()

    def _forget(self, replica: Replica) -> None:
        self._silent.discard(replica.url)
        watch = self._watches.pop(replica.url, None)
        if watch is not None:
            watch.task.cancel()

    async def _watch(self, replica: Replica, wake: asyncio.Event) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._config.interval_seconds):
                    await wake.wait()
            wake.clear()
            await self._check(replica)

    async def _check(self, replica: Replica) -> None:
        if replica.is_draining:
            return  # it gets no more requests, and may stop answering when it likes
        begun_at = self._monotonic()
        finding = await check(
            self._client, replica.url, timeout_seconds=self._config.timeout_seconds
        )
        if finding.problem is None:
            was_down = not replica.is_healthy
            self._mark_healthy(replica, finding.models)
            self._listener.check_passed(replica.url, begun_at=begun_at, was_down=was_down)
            return
        replica.num_failed_checks += 1
        if replica.num_failed_checks >= self._config.failures_to_unhealthy:
            self._mark_unhealthy(replica, finding.problem)

    def _mark_healthy(
        self, replica: Replica, models: Mapping[str, Mapping[str, object]] | None
    ) -> None:
        replica.num_failed_checks = 0
        if not replica.is_healthy:
            replica.is_healthy = True
            logger.info("replica healthy url=%s", replica.url)
        if models is None and replica.url not in self._silent:
            self._silent.add(replica.url)
            logger.warning(
                "replica does not list its models, its adapters are not found url=%s; where it asks "
                "for keys set health.api_key_file",
                replica.url,
            )
        if models is None or models.keys() == replica.listed_models.keys():
            return
        replica.listed_models = models
        logger.info("replica lists url=%s models=%s", replica.url, ",".join(models))
        for name in replica.configured_models - models.keys():
            logger.warning("model not listed by its replica model=%s url=%s", name, replica.url)

    def _mark_unhealthy(self, replica: Replica, problem: str) -> None:
        if replica.is_healthy:
            replica.is_healthy = False
            replica.prefixes.clear()  # it may come back with an empty cache
            logger.warning("replica unhealthy url=%s problem=%s", replica.url, problem)
            self._listener.went_down(replica.url)


def _report_crash(task: asyncio.Task[None]) -> None:
    # Only a bug ends a watch; without this line a replica would silently keep its last state.
    if not task.cancelled() and task.exception() is not None:
        logger.critical("health checks of a replica ended", exc_info=task.exception())


def _entries(listing: object) -> Mapping[str, Mapping[str, object]] | None:
    """Return `/v1/models`' entries by name, or None if the listing has another shape."""
    data = listing.get("data") if isinstance(listing, dict) else None
    if not isinstance(data, list):
        return None
    entries = {}
    for entry in data:
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            return None
        entries[entry["id"]] = entry
    return entries
