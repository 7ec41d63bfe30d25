"""The YAML file of `motley route`."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Self

from pydantic import ByteSize, Field, model_validator

from planner.config import StrictModel
from planner.units import Count, Name, Tokens
from router.choice_config import ModelChoiceConfig, pool_problem
from router.discovery.config import DiscoveryConfig, DnsSource, PlanSource
from router.facts import ModelFacts
from router.fallbacks import chain, check_fallbacks
from router.faults_config import BreakerConfig, HedgingConfig, RetryConfig
from router.governance_config import GovernanceConfig
from router.minions.config import MinionsConfig
from router.policy_config import PolicyConfig
from router.replica_url import ReplicaUrl
from router.traffic_log_config import TrafficLogSetting

Seconds = Annotated[float, Field(gt=0)]

MOST_WORKERS = 32
"""Processes of one router; the file of the limits has a place for each."""


class ReplicaConfig(StrictModel):
    """One server that speaks OpenAI's HTTP API."""

    url: ReplicaUrl
    """Its address without `/v1`, such as `http://127.0.0.1:8001`."""
    offer: Name | None = None
    """What it runs on, as the planned weights call it; needed where the model has weights."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """How much of the load it should carry, relative to the model's other replicas: policies divide
    loads by it. Planned weights go first, this one counts among the replicas of an offer."""
    max_outstanding: Annotated[int, Field(ge=1)] | None = None
    """Most requests on it at once from each of the router's `workers`; beyond it another replica is
    taken, and 429 is the answer if all are full. None: no limit."""
    capacity_tokens: Tokens | None = None
    """Tokens it holds at once, input and output of all its requests, as its KV memory does; a limit
    like `max_outstanding`, each worker's too, on estimated sizes. A replica without work takes any request. None: no
    limit, and loads are compared among the replicas alone."""
    loads_adapters: bool = False
    """Whether it loads an adapter by itself when a request names one (vLLM with a resolver). Then an
    adapter that another replica lists under the same parent may be asked of it too."""
    api_key_file: Path | None = None
    """File of the key that is sent to it in place of the client's, with checks too."""


class OfferWeights(StrictModel):
    """Where the requests of one range of input sizes go."""

    input_tokens_up_to: Tokens
    """Longest input of the range, which begins where the one before it ends; still longer inputs
    belong to the last range."""
    weights: Annotated[dict[Name, Count], Field(min_length=1)]
    """Offer to its share of these requests, relative to the others'; at least one above 0."""


class ModelConfig(ModelFacts):
    """One model, the replicas that serve it, and the facts that goals are judged by."""

    name: Annotated[str, Field(min_length=1)]
    """The name clients send and the replicas serve it under; the body is forwarded unchanged."""
    replicas: tuple[ReplicaConfig, ...] = ()
    """At least one, unless a source under `discovery` names some; a server that serves several
    models may stand under each of them."""
    weights: tuple[OfferWeights, ...] = ()
    """By input size, rising, as `motley plan render` writes them. Without any, `policy` picks among
    all of the model's replicas."""
    fallbacks: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Other models of the file that answer where none of this one's replicas can, in this order;
    their own fallbacks come after each of them."""

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if not self.weights:
            return self
        for place, replica in enumerate(self.replicas):
            if replica.offer is None:
                raise ValueError(f"replicas.{place}.offer: is required beside weights; add it")
        for before, after in pairwise(row.input_tokens_up_to for row in self.weights):
            if after <= before:
                raise ValueError(f"weights: {after} tokens follow {before}; sort the ranges")
        for place, row in enumerate(self.weights):
            if not sum(row.weights.values()):
                raise ValueError(f"weights.{place}: every weight is 0; give at least one above 0")
        return self


class HealthConfig(StrictModel):
    """Active checks: `GET /health`, then `GET /v1/models`, on every replica."""

    interval_seconds: Seconds = 5.0
    """Between two checks of one replica; also how soon an adapter loaded elsewhere is noticed."""
    timeout_seconds: Seconds = 5.0
    """How long each of the two requests may take, and `GET /admin/adapters` before an upload."""
    failures_to_unhealthy: Annotated[int, Field(ge=1)] = 2
    """Consecutive failed checks before a replica gets no more requests; one success heals it. A
    request that fails makes its replica suspect at once, and has it checked."""
    api_key_file: Path | None = None
    """File of the key that is sent with the checks. Replicas that ask for keys list their adapters
    to nobody else; a replica's own `api_key_file` goes before it. Requests of clients carry the
    clients' own keys, whatever stands here, unless the router has keys (`governance`)."""


class TimeoutsConfig(StrictModel):
    """How long the router waits for a replica, and for its own streams when it stops."""

    connect_seconds: Seconds = 2.0
    """To open a connection."""
    first_byte_seconds: Seconds = 600.0
    """From sending the request to the first byte of a stream, or to the whole of an answer that is
    not streamed: queueing and, without streaming, all of the decoding fall into it."""
    idle_seconds: Seconds = 300.0
    """Between two pieces of a running stream."""
    shutdown_seconds: Annotated[int, Field(ge=1)] = 30
    """After SIGTERM or SIGINT, for running requests to finish."""


class RouterConfig(StrictModel):
    """A router: where it listens, and what stands behind it."""

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one and the `listening` line names it."""
    models: tuple[ModelConfig, ...] = ()
    """What is served; at least one, unless a plan under `discovery` names some. Adapters the
    replicas list are served too, without an entry."""
    discovery: DiscoveryConfig = DiscoveryConfig()
    """Replicas that do not stand in this file, and how changes are noticed."""
    policy: PolicyConfig | None = None
    """How a replica is picked. None: `prefix_aware` with one worker, `bounded_load` with several."""
    health: HealthConfig = HealthConfig()
    """Active health checks."""
    retry: RetryConfig = RetryConfig()
    """Retries on other replicas."""
    breaker: BreakerConfig = BreakerConfig()
    """The circuit breaker of each replica."""
    hedging: HedgingConfig | None = None
    """Second attempts at short requests whose first one is slow; without it none is made."""
    minions: MinionsConfig = MinionsConfig()
    """Virtual models in which a local model reads for a remote one."""
    timeouts: TimeoutsConfig = TimeoutsConfig()
    """Time limits."""
    workers: Annotated[int, Field(ge=1, le=MOST_WORKERS)] = 1
    """Processes that share the port, one processor core each. The keys' limits hold over all of them;
    those of replicas (`max_outstanding`, `capacity_tokens`) count each worker's own requests: divide
    what a replica takes by the workers."""
    governance: GovernanceConfig = GovernanceConfig()
    """Keys, rates, budgets and the administrator's key; without any every client is let in."""
    traffic_log: TrafficLogSetting = None
    """File that gets one JSON line a request, appended; relative to the working directory. A path,
    or `{path, rotate_bytes, keep}`. Without it no line is written."""
    model_choice: ModelChoiceConfig | None = None
    """Pools of models, `auto` among them, one of which is chosen for each request; without it every
    request names its model."""
    max_body_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(32 * 2**20)
    """Largest request body, such as `32MiB`; larger ones are answered 413. A replica's answer that is
    not streamed may have 64 MiB; beyond them it counts as a failure of the replica."""
    max_upload_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(2 * 2**30)
    """Largest adapter on its way to the replicas; kept on disk meanwhile."""
    spool_folder: Path | None = None
    """Where; without it the system's folder for temporary files (TMPDIR), which some systems keep
    in memory: then name one on disk."""

    @model_validator(mode="after")
    def _check_names(self) -> "RouterConfig":
        names = [model.name for model in self.models]
        for index, model in enumerate(self.models):
            if model.name in names[:index]:
                raise ValueError(f"models.{index}.name: {model.name!r} appears twice; merge them")
            urls = [replica.url for replica in model.replicas]
            for place, url in enumerate(urls):
                if url in urls[:place]:
                    where = f"models.{index}.replicas.{place}.url"
                    raise ValueError(f"{where}: {url!r} appears twice; remove one")
        return self

    @model_validator(mode="after")
    def _check_pools(self) -> "RouterConfig":
        is_whole = not any(isinstance(source, PlanSource) for source in self.discovery.sources)
        if self.model_choice is not None and is_whole:
            problem = pool_problem(self.model_choice, [model.name for model in self.models])
            if problem is not None:
                raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _check_sources(self) -> Self:
        if not any(isinstance(source, PlanSource) for source in self.discovery.sources):
            check_sources(self.models, self.discovery)
        return self

    @property
    def fallback_chains(self) -> dict[str, tuple[str, ...]]:
        """Model → every model that may answer in its place, in order; only those that have some."""
        fallbacks = {model.name: model.fallbacks for model in self.models if model.fallbacks}
        return {name: chain(name, fallbacks) for name in fallbacks}


def check_sources(models: Sequence[ModelConfig], discovery: DiscoveryConfig) -> None:
    """Check that every model can get a replica, every offer with a weight too, and the fallbacks.

    Plans that `discovery` names must stand in `models` already.

    Raises:
        ValueError: If not; the message begins with the dotted path.
    """
    if not models:
        raise ValueError("models: holds 0; give at least one")
    check_fallbacks({model.name: model.fallbacks for model in models})
    names = [model.name for model in models]
    found = [source for source in discovery.sources if isinstance(source, DnsSource)]
    for place, source in enumerate(discovery.sources):
        if source.name in [each.name for each in discovery.sources[:place]]:
            raise ValueError(f"discovery.sources.{place}: {source.name} appears twice; remove one")
        if isinstance(source, DnsSource) and source.model not in names:
            raise ValueError(
                f"discovery.sources.{place}.model: {source.model!r} does not stand under models; "
                f"name one of: {', '.join(names)}"
            )
    for index, model in enumerate(models):
        offers = {replica.offer for replica in model.replicas}
        offers |= {source.offer for source in found if source.model == model.name}
        if not offers and discovery.state_file is None:
            raise ValueError(
                f"models.{index}.replicas: holds 0; give at least one, or a source of "
                "discovery.sources that names some"
            )
        if None in offers and model.weights:
            raise ValueError(f"models.{index}: a source of it states no offer; its weights need it")
        for place, row in enumerate(model.weights):
            for offer in row.weights:
                if offer not in offers and discovery.state_file is None:
                    raise ValueError(
                        f"models.{index}.weights.{place}: no replica is of offer {offer!r}; name "
                        f"one of: {', '.join(sorted(filter(None, offers)))}"
                    )
