"""The router put together, and put together anew when its file changes.

What is counted, learnt or connected lasts as long as the process (`Lasting`). What follows from the
settings alone is made by `assemble`, once at the start and once a reload; requests that run keep the
one they began with.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from planner.errors import DocumentError
from router.adapters import Adapters, UploadPlaces
from router.admin import Admin
from router.application import make_application
from router.attempt import Attempts
from router.catalogue import Catalogue
from router.choice_metrics import ChoiceMetrics
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
from router.embedder import make_embedder
from router.exchange import DataPath, RequestIds
from router.faults import Faults
from router.features_log import FeaturesLogs
from router.fleet import Fleet
from router.governance.admin_guard import AdminGuard
from router.governance.governance import Governance
from router.governance.keys import KeyRing
from router.governance.meters import GovernanceMeters
from router.governance.opening import GovernanceFiles, open_files, read_admin_digest, read_keys
from router.governance.prices import Prices
from router.governance.usage_api import UsageApi
from router.grades import Grades
from router.health import HealthMonitor
from router.input_size import InputSizes
from router.log_metrics import LogMetrics
from router.metrics import RouterMetrics
from router.minions.leg import Services
from router.minions.metrics import MinionsMetrics
from router.minions.virtual_model import VirtualModels
from router.model_choice import ModelChoice
from router.model_standing import FleetStanding
from router.output_length import OutputLengths
from router.policies.planned_weights import PlannedWeights
from router.policies.registry import default_policy, make_policy
from router.policy_config import PrefixAwareConfig
from router.prediction.predictor import Predictor
from router.prompt_store import PromptStore
from router.reload import ConfigSource, FixedConfig, Reloader
from router.replica_choice import ReplicaChoice
from router.replica_keys import ReplicaKeys, read_key_files
from router.router import Router
from router.traffic_log import TrafficLog
from router.upstream import Upstream, open_upstream
from router.workers.metrics_page import MetricsPage, open_metrics_page
from router.workers.worker import ALONE, Worker


@dataclass(frozen=True, slots=True)
class Lasting:
    """What outlives a reload; a piece with settings follows them by its own `configure`."""

    fleet: Fleet
    monitor: HealthMonitor
    upstream: Upstream
    replica_keys: ReplicaKeys
    sizes: InputSizes
    lengths: OutputLengths
    metrics: RouterMetrics
    faults: Faults
    traffic_log: TrafficLog
    roster: Roster
    discovery: Discovery
    upload_places: UploadPlaces
    minions_metrics: MinionsMetrics
    governance: Governance
    files: GovernanceFiles
    metrics_page: MetricsPage
    prompts: PromptStore | None
    choice_metrics: ChoiceMetrics
    features_logs: FeaturesLogs


class Gateway:
    """The router as an ASGI application whose settings can change under running requests."""

    def __init__(
        self, config: RouterConfig, lasting: Lasting, config_file: ConfigSource, worker: Worker
    ) -> None:
        self._lasting = lasting
        self.reloader = Reloader(
            config,
            config_file,
            self._apply,
            lasting.metrics,
            tell_others=worker.have_all_reload,
        )
        self._application = assemble(
            config, lasting, self.reloader, make_model_choice(config, lasting)
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer by the settings in force when the request arrives."""
        await self._application(scope, receive, send)

    async def _apply(self, config: RouterConfig) -> None:
        """Put `config` in force; what can fail comes before anything is changed."""
        lasting = self._lasting
        keys = _keys_again(config, lasting.governance)
        key_files = read_key_files(config, added=lasting.roster.added)
        model_choice = await asyncio.to_thread(make_model_choice, config, lasting)
        application = assemble(config, lasting, self.reloader, model_choice)
        lasting.governance.replace(
            keys,
            Prices(config.models),
            assumed_completion_tokens=config.governance.assumed_completion_tokens,
            refuses_unwritten=config.governance.refuses_unwritten,
        )
        lasting.upstream.configure(config.timeouts)
        lasting.replica_keys.configure(key_files, check_file=config.health.api_key_file)
        lasting.monitor.configure(config.health)
        lasting.faults.configure(config.breaker, config.retry)
        lasting.sizes.configure(model.name for model in config.models)
        await lasting.discovery.follow(config)
        self._application = application


def assemble(
    config: RouterConfig, lasting: Lasting, reloader: Reloader, model_choice: ModelChoice | None
) -> ASGIApp:
    """Return the application that follows from the settings; nothing that lasts is changed."""
    fleet, monitor, upstream = lasting.fleet, lasting.monitor, lasting.upstream
    choice = replica_choice(config, lasting)
    router = Router(
        fleet,
        monitor,
        choice,
        Attempts(lasting.faults.guards, upstream),
        lasting.faults,
        retry=config.retry,
        hedging=config.hedging,
        fallbacks=config.fallback_chains,
    )
    limit = int(config.max_body_bytes)
    virtual = VirtualModels(
        config.minions,
        config.models,
        fleet,
        Services(router, lasting.traffic_log, lasting.metrics),
        lasting.minions_metrics,
    )
    completions = Completions(
        router,
        lasting.traffic_log,
        lasting.metrics,
        choice,
        virtual,
        lasting.governance,
        prompts=lasting.prompts,
        max_body_bytes=limit,
        model_choice=model_choice,
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
    governance = lasting.governance
    pools = {} if model_choice is None else model_choice.members
    catalogue = Catalogue(fleet, monitor, virtual, governance, pools=pools)
    usage = UsageApi(governance, lasting.files.accounts, lasting.files.store)
    routes = Admin(replicas, reloader, usage, _grades(config)).routes()
    application = make_application(completions, adapters, catalogue, lasting.metrics_page, routes)
    admin_digest = read_admin_digest(config)
    has_keys = governance.has_keys
    others = AdminGuard(application, admin_digest=admin_digest, has_keys=has_keys)
    return RequestIds(DataPath(completions, others))


def replica_choice(config: RouterConfig, lasting: Lasting) -> ReplicaChoice:
    """Return the choice of replicas as the settings want it; what has been learnt goes on."""
    settings = config.policy or default_policy(num_workers=config.workers)
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
    files: GovernanceFiles | None = None,
    worker: Worker = ALONE,
) -> AsyncGenerator[Gateway]:
    """Yield the router as an ASGI application, its health checks running until the end.

    Every replica has been checked once before this yields.

    Args:
        config: The settings to begin with.
        traffic_log: Where each request's line goes; stays the caller's.
        config_file: Where settings are read again for a reload; None: they stay the same.
        resolver: Who knows the addresses of names; None: the system's.
        files: The files of governance, which the caller closes; None: opened and closed here.
        worker: Which of several processes this is.

    Raises:
        DocumentError: If a file of keys cannot be used.
        StartError: If a file of governance cannot be opened.
        StateFileError: If the file of commands cannot be read.
    """
    async with AsyncExitStack() as closing:
        if files is None:
            files = open_files(config)
            closing.callback(files.close)
            files.begin_worker()
        source = config_file or FixedConfig(config)
        known = resolver or SystemResolver()
        yield await closing.enter_async_context(
            _opened(config, traffic_log, source, known, files, worker)
        )


@asynccontextmanager
async def _opened(
    config: RouterConfig,
    traffic_log: TrafficLog,
    source: ConfigSource,
    resolver: Resolver,
    files: GovernanceFiles,
    worker: Worker,
) -> AsyncGenerator[Gateway]:
    fleet = Fleet(config.models)
    sizes = InputSizes(fleet.base_models)
    metrics = RouterMetrics(fleet, sizes)
    faults = Faults(fleet, config.breaker, config.retry, metrics.registry)
    governance = _governance(config, files, metrics)
    keys = ReplicaKeys(withholds_clients=governance.has_keys)
    keys.configure(read_key_files(config), check_file=config.health.api_key_file)
    async with (
        open_upstream(config.timeouts, keys=keys) as upstream,
        open_metrics_page(metrics.registry, worker) as metrics_page,
        AsyncExitStack() as closing,
    ):
        monitor = HealthMonitor(fleet, upstream, config.health, faults.guards)
        file = config.discovery.state_file or worker.commands_path
        store = MemoryStore() if file is None else StateFile(file)
        roster = Roster(fleet, monitor, configured_members(config.models), store, keys)
        lasting = Lasting(
            fleet=fleet,
            monitor=monitor,
            upstream=upstream,
            replica_keys=keys,
            sizes=sizes,
            lengths=OutputLengths(),
            metrics=metrics,
            faults=faults,
            traffic_log=traffic_log,
            roster=roster,
            discovery=Discovery(roster, resolver, failed=metrics.lookup_failed),
            upload_places=UploadPlaces(),
            minions_metrics=MinionsMetrics(metrics.registry),
            governance=governance,
            files=files,
            metrics_page=metrics_page,
            prompts=_prompts(config, closing),
            choice_metrics=ChoiceMetrics(metrics.registry),
            features_logs=FeaturesLogs(),
        )
        _show_lost_lines(lasting)
        gateway = Gateway(config, lasting, source, worker)
        async with (
            following(config, roster, lasting.discovery, gateway.reloader),
            monitor.running(),
        ):
            try:
                yield gateway
            finally:
                lasting.features_logs.close()


def _governance(config: RouterConfig, files: GovernanceFiles, metrics: RouterMetrics) -> Governance:
    store = files.store
    meters = GovernanceMeters(
        metrics.registry, lambda: 0 if store is None else store.num_failed_writes
    )
    return Governance(
        files.keys,
        Prices(config.models),
        meters,
        accounts=files.accounts,
        store=store,
        assumed_completion_tokens=config.governance.assumed_completion_tokens,
        refuses_unwritten=config.governance.refuses_unwritten,
    )


def _keys_again(config: RouterConfig, governance: Governance) -> KeyRing | None:
    path = config.governance.keys_file
    if (path is not None) != governance.has_keys:
        problem = "cannot be set or taken away while the router runs; start it anew"
        raise DocumentError(Path("governance.keys_file"), problem)
    if path is None:
        return None
    keys = read_keys(path, config.models)
    governance.open_accounts(keys)
    return keys


def _prompts(config: RouterConfig, closing: AsyncExitStack) -> PromptStore | None:
    path = config.governance.store_prompts
    if path is None:
        return None
    prompts = PromptStore(path)
    closing.callback(prompts.close)
    return prompts


def _show_lost_lines(lasting: Lasting) -> None:
    prompts = lasting.prompts
    counts: dict[str, Callable[[], int]] = {
        "traffic": lambda: lasting.traffic_log.num_lost_lines,
        "features": lambda: lasting.features_logs.num_lost_lines,
    }
    if prompts is not None:
        counts["prompts"] = lambda: prompts.num_lost_lines
    LogMetrics(lasting.metrics.registry, counts)


def make_model_choice(config: RouterConfig, lasting: Lasting) -> ModelChoice | None:
    """Return the choice among models that the settings ask for; it reads the predictor's file.

    Raises:
        StartError: If pools and predictor do not fit together, or the features log cannot be opened.
        PredictorFileError: If the predictor cannot be read.
        DocumentError: If the key of the server of embeddings cannot be read.
    """
    choice = config.model_choice
    if choice is None:
        return None
    path = choice.features_path
    predictor = None if choice.predictor is None else Predictor.load(choice.predictor)
    return ModelChoice(
        choice,
        config.models,
        predictor,
        FleetStanding(lasting.fleet, lasting.lengths, monotonic=time.monotonic),
        lasting.choice_metrics,
        None if path is None else lasting.features_logs.at(path, int(choice.features_log_bytes)),
        make_embedder(choice, predictor, lasting.upstream, lasting.choice_metrics),
    )


def _grades(config: RouterConfig) -> Grades | None:
    if config.model_choice is None:
        return None
    return Grades(config.model_choice.grades, max_body_bytes=int(config.max_body_bytes))
