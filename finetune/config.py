"""The job file of `motley finetune run`: one base model, one adapter, clients with their text."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from finetune.aggregation import STRATEGIES
from finetune.annealing import stage_ranks
from finetune.compatibility import Parts, conflict
from finetune.local_config import FLOAT32, LocalTrainingConfig
from finetune.scheduling.config import SchedulingConfig, with_job_defaults
from finetune.scheduling.synchronous import SynchronousSettings
from finetune.sparsity.config import SparsityChoice
from finetune.sparsity.shared_mask import SharedMask
from finetune.trust.config import NO_MORE_THAN_CHECKS, TrustConfig
from planner.config import StrictModel
from planner.loopback import is_loopback

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
"""A name that is safe in file names, log lines and URLs."""


AggregationName = Literal[
    "fedavg", "lora-fair", "lora-fair-cosine", "best-rank", "flora", "ffa", "fedsvd"
]
"""Ways to make one adapter of the clients'; see `finetune/strategies/`."""


class JsonlData(StrictModel):
    """Text in a JSON lines file, one document a line."""

    kind: Literal["jsonl"]
    """Chooses this kind."""
    path: Path
    """The file. Each line holds `{"text": ...}`, or `{"messages": [...]}`, which the base model's
    chat template renders. A relative path starts at the working directory."""


class PackageData(StrictModel):
    """The Python source files of an installed package, for examples that must run offline."""

    kind: Literal["package"]
    """Chooses this kind."""
    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Top-level import name. The package is read, not imported."""


ClientData = Annotated[JsonlData | PackageData, Field(discriminator="kind")]


class ClientConfig(StrictModel):
    """One participant: its text never leaves it, only its adapter does."""

    name: Name
    """Unique in the job; labels the client's losses. Decides, with the seed, its batches."""
    data: ClientData
    """Where its text is."""
    rank: int | None = Field(default=None, gt=0)
    """Most components of the adapter it trains and sends, the first ones; null: the job's `rank`.
    They are in order of weight where the aggregation is `best-rank`, `flora` or `fedsvd`."""


class AdapterConfig(StrictModel):
    """One of several adapters that one pool of clients trains."""

    name: Name
    """Unique in the job; the adapter is written to `adapters/NAME` of the run folder."""
    data: dict[str, ClientData] = Field(default_factory=dict)
    """Where a client's text for this adapter is, by client; by default in the client's own `data`."""


class DeploymentConfig(StrictModel):
    """Where a job's server and clients meet, for `motley finetune server` and `client`."""

    address: str = Field(pattern=r"^(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$")
    """Host and port at which clients reach the server, such as `fl.example.org:9443`."""
    listen: str | None = Field(default=None, pattern=r"^[0-9A-Za-z.:-]+$")
    """Address of this machine that the server binds; by default the loopback address of an
    `address` on loopback, and otherwise 0.0.0.0. The port is `address`'s."""
    certificates: Path
    """Folder of `motley finetune certs`. The server needs `ca.crt`, `server.*` and
    `clients/*.pub` of it, a client `ca.crt` and its own `clients/NAME.key`. A relative path starts
    at the working directory."""
    min_clients: int | None = Field(default=None, gt=0)
    """Connected clients that the first round waits for; by default all of the job's."""
    wait_seconds: float = Field(default=600.0, gt=0, le=7 * 86400)
    """How long it waits for them before the job fails."""
    answer_seconds: float = Field(default=1800.0, gt=0, le=7 * 86400)
    """How long a client may take to train or judge; later answers do not count."""

    @property
    def host(self) -> str:
        """Host of `address`, without brackets."""
        return self.address.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """Port of `address`."""
        return int(self.address.rpartition(":")[2])

    @property
    def bind_host(self) -> str:
        """Address that the server binds."""
        if self.listen is not None:
            return self.listen
        if not is_loopback(self.host):
            return "0.0.0.0"
        return "127.0.0.1" if self.host == "localhost" else self.host

    @model_validator(mode="after")
    def _port_exists(self) -> Self:
        if not 1 <= self.port <= 65535:
            raise ValueError(
                f"deployment.address: port {self.port} does not exist; give 1 to 65535"
            )
        return self


class JobConfig(StrictModel):
    """A federated LoRA job."""

    schema_version: Literal[1]
    """Version of this file's form."""
    name: Name
    """Name of the job, recorded with the adapter."""
    model: str = Field(min_length=1)
    """Base model: a local folder, or the id of a model on the Hugging Face hub."""
    rank: int = Field(gt=0, le=1024)
    """Rank of both LoRA factors."""
    alpha: float = Field(gt=0)
    """LoRA's alpha; the product of the factors is scaled by alpha / rank."""
    final_rank: int | None = Field(default=None, gt=0)
    """Rank of the result: halved on the way, after equal shares of the rounds, and alpha with it.
    Null: `rank`."""
    target_modules: tuple[str, ...] = Field(min_length=1)
    """Names of the linear layers that get an adapter, such as `q_proj`; a suffix after a dot."""
    rounds: int = Field(gt=0)
    """Times the clients train and the server aggregates."""
    local_steps: int = Field(gt=0)
    """Optimiser steps of each client in each round."""
    batch_size: int = Field(gt=0)
    """Sequences of one step."""
    sequence_tokens: int = Field(gt=1)
    """Tokens of one training sequence."""
    learning_rate: float = Field(gt=0)
    """AdamW's rate, constant; its moments start anew in each round."""
    aggregation: AggregationName = "fedavg"
    """How the clients' adapters become one: means of the factors (`fedavg`), with a correction
    (`lora-fair`, `lora-fair-cosine`), the mean of products at the job's rank (`best-rank`, `flora`),
    or exact means of B while A is frozen in the clients (`ffa`, `fedsvd`)."""
    proximal_mu: float = Field(default=0.0, ge=0)
    """FedProx's pull of local training towards the adapter it began with; 0 is none."""
    seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Decides the adapter's first weights and every batch."""
    held_out_fraction: float = Field(gt=0, lt=1)
    """Share of each client's documents kept out of training, chosen whole by the hash of their
    text; at least one document each way."""
    held_out_tokens: int = Field(default=16384, gt=1)
    """Most held-out tokens of one client that are scored, spread evenly over its held-out text."""
    judge_every: int = Field(default=1, ge=0)
    """Rounds between two judgements on held-out text, by each client before it trains: it costs
    time, and no bytes but two numbers. 0: the base model and the result only."""
    local_training: LocalTrainingConfig = FLOAT32
    """How clients compute their steps: precision, memory, device."""
    sparsity: SparsityChoice | None = None
    """Send the largest entries only, `default` as the benchmark found it cheapest; by default the
    whole adapter crosses, both ways."""
    output: Path
    """Run folder: checkpoint, metrics, and at the end the adapter. A relative path starts at the
    working directory."""
    clients: tuple[ClientConfig, ...] = Field(min_length=1)
    """The participants."""
    deployment: DeploymentConfig | None = None
    """Where they meet, if they are on several machines."""
    trust: TrustConfig = NO_MORE_THAN_CHECKS
    """What updates must be to count, and what is done against attackers and for privacy."""
    scheduling: SchedulingConfig | None = None
    """Who trains when, and for how many steps; `rounds` are then versions of each adapter, and what
    waits when the last is made makes one more. Null: all clients in every round. Steps, seed and
    buffers come from the job where the block has none."""
    adapters: tuple[AdapterConfig, ...] = ()
    """Several adapters at once, with `scheduling: {kind: fedast}`; by default one."""

    @model_validator(mode="before")
    @classmethod
    def _scheduling_of_job(cls, content: Any) -> Any:
        return with_job_defaults(content)

    @model_validator(mode="after")
    def _ranks_fall(self) -> Self:
        final_rank = self.last_rank
        if final_rank > self.rank:
            raise ValueError(f"final_rank: {final_rank} is above rank {self.rank}; lower it")
        for client in self.clients:
            if (client.rank or 0) > self.rank:
                raise ValueError(
                    f"clients: {client.name!r} has rank {client.rank}, above the job's {self.rank}; "
                    "lower it"
                )
        stages = stage_ranks(self.rank, final_rank)
        if len(stages) > self.rounds:
            raise ValueError(
                f"final_rank: {final_rank} is reached in {len(stages)} stages {stages}, which "
                f"{self.rounds} rounds do not hold; raise one of them"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        num_parts = self.local_training.gradient_accumulation_steps
        if self.batch_size % num_parts:
            raise ValueError(
                f"local_training.gradient_accumulation_steps: {num_parts} does not divide "
                f"batch_size {self.batch_size}; give a divisor of it"
            )
        return self

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for where, names in (
            ("clients", [client.name for client in self.clients]),
            ("target_modules", self.target_modules),
            ("adapters", [adapter.name for adapter in self.adapters]),
        ):
            name, count = max(Counter(names).items(), key=lambda item: item[1], default=("", 0))
            if count > 1:
                raise ValueError(f"{where}: {name!r} stands {count} times; give it once")
        return self

    @model_validator(mode="after")
    def _scheduling_fits(self) -> Self:
        names, scheduling = {client.name for client in self.clients}, self.scheduling
        wanted = () if scheduling is None or scheduling.kind != "fedast" else scheduling.adapters
        given = tuple(adapter.name for adapter in self.adapters)
        if given != wanted:
            raise ValueError(
                f"adapters: {list(given)}, scheduling trains {list(wanted)}; several adapters want "
                "scheduling of kind fedast, without `adapters` of its own"
            )
        for adapter in self.adapters:
            unknown = sorted(adapter.data.keys() - names)
            if unknown:
                raise ValueError(
                    f"adapters: {adapter.name!r} has data of {unknown[0]!r}, which is no client; "
                    f"clients are {', '.join(sorted(names))}"
                )
        clock = None if scheduling is None else scheduling.virtual_clock
        if clock is not None and clock.machines.keys() != names:
            odd = sorted(clock.machines.keys() ^ names)
            raise ValueError(
                f"scheduling.virtual_clock.machines: {odd[0]!r} is in one of machines and clients; "
                "give one machine for each client"
            )
        return self

    @field_validator("output", mode="before")
    @classmethod
    def _output_is_named(cls, value: Any) -> Any:
        if value == "":
            raise ValueError("is empty; name the run's folder")
        return value

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        scheduling, most = self.scheduling, len(self.clients)
        selection = getattr(scheduling, "selection", None)
        for where, wanted in (
            ("selection.num_clients", getattr(selection, "num_clients", 0)),
            ("buffer_size", getattr(scheduling, "buffer_size", 0)),
        ):
            if wanted > most:
                raise ValueError(
                    f"scheduling.{where}: {wanted} is more than the {most} clients; lower it"
                )
        return self

    @model_validator(mode="after")
    def _trust_fits(self) -> Self:
        obstacle = self.trust.obstacle(num_clients=self.num_asked, num_rounds=self.rounds)
        if obstacle is not None:
            raise ValueError(obstacle)
        return self

    @model_validator(mode="after")
    def _cohort_fits(self) -> Self:
        wanted = None if self.deployment is None else self.deployment.min_clients
        least, most = self.trust.least_clients, len(self.clients)
        if wanted is not None and not least <= wanted <= most:
            raise ValueError(f"deployment.min_clients: {wanted}; give {least} to {most}")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        obstacle = conflict(self.parts())
        if obstacle is not None:
            raise ValueError(obstacle)
        return self

    def parts(self, *, is_deployed: bool = False, is_keyless: bool = False) -> Parts:
        """Return what the job combines, in one process or with clients on other machines."""
        return Parts(
            strategy=STRATEGIES[self.aggregation],
            sparsity=self.sparsity,
            trust=self.trust,
            is_rank_falling=self.last_rank != self.rank,
            are_ranks_mixed=any(rank < self.rank for rank in self.client_ranks.values()),
            is_deployed=is_deployed,
            is_keyless=is_keyless,
            scheduling=self.scheduling,
        )

    def texts_of(self, client: ClientConfig) -> dict[str, ClientConfig]:
        """Return a client with its text for each adapter, by the adapter's name."""
        texts = {adapter.name: adapter.data.get(client.name) for adapter in self.adapters}
        return {
            name: client if data is None else client.model_copy(update={"data": data})
            for name, data in texts.items()
        } or {"": client}

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """Names of the adapters that are trained; that of a single one is ""."""
        return tuple(adapter.name for adapter in self.adapters) or ("",)

    @property
    def num_versions(self) -> int:
        """Versions of all adapters together, that is lines of metrics; a last one may come more."""
        return self.rounds * len(self.adapter_names)

    @property
    def num_asked(self) -> int:
        """Most clients whose updates make one version together."""
        num_clients, scheduling = len(self.clients), self.scheduling
        if isinstance(scheduling, SynchronousSettings) and scheduling.selection.kind != "all":
            return min(num_clients, scheduling.selection.num_clients)
        return num_clients

    @property
    def shared_mask(self) -> SharedMask | None:
        """Entries that all clients send in a round, where the job wants that."""
        if self.sparsity is None or self.sparsity.mask == "own":
            return None
        return SharedMask(self.sparsity, STRATEGIES[self.aggregation].is_down_frozen)

    @property
    def client_ranks(self) -> dict[str, int]:
        """Most components that each client trains."""
        return {client.name: client.rank or self.rank for client in self.clients}

    @property
    def last_rank(self) -> int:
        """Rank of the result."""
        return self.rank if self.final_rank is None else self.final_rank

    @property
    def last_alpha(self) -> float:
        """Alpha of the result."""
        return self.alpha * self.last_rank / self.rank

    @property
    def scale(self) -> float:
        """Of the factors' product, at every rank."""
        return self.alpha / self.rank
