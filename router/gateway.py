"""The router put together, and put together anew when its file changes.

What is counted, learnt or connected lasts as long as the process (`Lasting`). What follows from the
settings alone is made by `assemble`, once at the start and once a reload; requests that run keep the
one they began with.
"""

import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from planner.key_file import read_key
from router.adapters import Adapters, UploadPlaces
from router.admin import Admin
from router.application import make_application
from router.catalogue import Catalogue
from router.completions import Completions
from router.config import RouterConfig
from router.discovery.amendments import MemoryStore
from router.discovery.commands import ReplicaCommands
from router.discovery.discovery import Discovery
from router.discovery.dns import Resolver, SystemResolver
from router.discovery.following import following
from router.discovery.member import configured_members
from router.discovery.roster import Roster
from router.discovery.state_file import StateFile
from router.exchange import RequestIds
from router.fleet import Fleet
from router.health import HealthMonitor
from router.input_size import InputSizes
from router.metrics import RouterMetrics
from router.minions.leg import Services
from router.minions.metrics import MinionsMetrics
from router.minions.virtual_model import VirtualModels
from router.output_length import OutputLengths
from router.policies.planned_weights import PlannedWeights
from router.policies.registry import default_policy, make_policy
from router.policy_config import PrefixAwareConfig
from router.reload import ConfigSource, FixedConfig, Reloader
from router.replica_choice import ReplicaChoice
from router.router import Router
from router.traffic_log import TrafficLog
from router.upstream import Upstream, open_upstream


@dataclass(frozen=True, slots=True)
class Lasting:
    """What outlives a reload; a piece with settings follows them by its own `configure`."""

    fleet: Fleet
    monitor: HealthMonitor
    upstream: Upstream
    sizes: InputSizes
    lengths: OutputLengths
    metrics: RouterMetrics
    traffic_log: TrafficLog
    roster: Roster
    discovery: Discovery
    upload_places: UploadPlaces
    minions_metrics: MinionsMetrics


class Gateway:
    """The router as an ASGI application whose settings can change under running requests."""

    def __init__(self, config: RouterConfig, lasting: Lasting, config_file: ConfigSource) -> None:
        self._lasting = lasting
        self.reloader = Reloader(config, config_file, self._apply, lasting.metrics)
        self._application = assemble(config, lasting, self.reloader)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the settings in force when the request arrives."""
        await self._application(scope, receive, send)

    async def _apply(self, config: RouterConfig) -> None:
        """Put `config` in force; what can fail comes before anything is changed."""
        lasting = self._lasting
        control_key = _control_key(config)
        application = assemble(config, lasting, self.reloader)
        lasting.upstream.configure(config.timeouts, control_key=control_key)
        lasting.monitor.configure(config.health)
        lasting.sizes.configure(model.name for model in config.models)
        await lasting.discovery.follow(config)
        self._application = application


def assemble(config: RouterConfig, lasting: Lasting, reloader: Reloader) -> ASGIApp:
    """Return the application that follows from the settings; nothing that lasts is changed."""
    fleet, monitor, upstream = lasting.fleet, lasting.monitor, lasting.upstream
    choice = replica_choice(config, lasting)
    attempts = config.retry.max_attempts
    router = Router(fleet, monitor, choice, upstream, max_attempts=attempts)
    limit = int(config.max_body_bytes)
    virtual = VirtualModels(
        config.minions,
        config.models,
        fleet,
        Services(router, lasting.traffic_log, lasting.metrics),
        lasting.minions_metrics,
    )
    completions = Completions(
        router, lasting.traffic_log, lasting.metrics, choice, virtual, max_body_bytes=limit
    )
    adapters = Adapters(
        fleet,
        monitor,
        upstream,
        lasting.upload_places,
        max_body_bytes=limit,
        max_upload_bytes=int(config.max_upload_bytes),
        list_seconds=config.health.timeout_seconds,
        spool_folder=config.spool_folder,
    )
    replicas = ReplicaCommands(fleet, lasting.roster, max_body_bytes=limit)
    catalogue = Catalogue(fleet, monitor, virtual)
    admin = Admin(replicas, reloader)
    return RequestIds(
        make_application(completions, adapters, catalogue, lasting.metrics, admin.routes())
    )


def replica_choice(config: RouterConfig, lasting: Lasting) -> ReplicaChoice:
    """Return the choice of replicas as the settings want it; what has been learnt goes on."""
    settings = config.policy or default_policy(num_workers=1)
    policy = make_policy(settings, random.random)
    return ReplicaChoice(
        lasting.fleet,
        PlannedWeights(config.models, lasting.sizes, policy),
        lasting.sizes,
        lasting.lengths,
        lasting.metrics,
        prefix_nodes=settings.most_nodes if isinstance(settings, PrefixAwareConfig) else 0,
        monotonic=time.monotonic,
    )


@asynccontextmanager
async def open_gateway(
    config: RouterConfig,
    traffic_log: TrafficLog,
    *,
    config_file: ConfigSource | None = None,
    resolver: Resolver | None = None,
) -> AsyncGenerator[Gateway]:
    """Yield the router as an ASGI application, its health checks running until the end.

    Every replica has been checked once before this yields.

    Args:
        config: The settings to begin with.
        traffic_log: Where each request's line goes; stays the caller's.
        config_file: Where settings are read again for a reload; None: they stay the same.
        resolver: Who knows the addresses of names; None: the system's.

    Raises:
        DocumentError: If the file of the key for checks holds none.
        StateFileError: If the file of commands cannot be read.
    """
    fleet = Fleet(config.models)
    sizes = InputSizes(fleet.base_models)
    metrics = RouterMetrics(fleet, sizes)
    async with open_upstream(config.timeouts, control_key=_control_key(config)) as upstream:
        monitor = HealthMonitor(fleet, upstream, config.health)
        file = config.discovery.state_file
        store = MemoryStore() if file is None else StateFile(file)
        roster = Roster(fleet, monitor, configured_members(config.models), store)
        lasting = Lasting(
            fleet=fleet,
            monitor=monitor,
            upstream=upstream,
            sizes=sizes,
            lengths=OutputLengths(),
            metrics=metrics,
            traffic_log=traffic_log,
            roster=roster,
            discovery=Discovery(roster, resolver or SystemResolver(), failed=metrics.lookup_failed),
            upload_places=UploadPlaces(),
            minions_metrics=MinionsMetrics(metrics.registry),
        )
        gateway = Gateway(config, lasting, config_file or FixedConfig(config))
        async with (
            following(config, roster, lasting.discovery, gateway.reloader),
            monitor.running(),
        ):
            yield gateway


def _control_key(config: RouterConfig) -> str | None:
    file = config.health.api_key_file
    return None if file is None else read_key(file)
