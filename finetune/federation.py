"""What a job begins with: the base model, the first adapter, and its clients in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from peft import PeftModel

from finetune.aggregation import STRATEGIES
from finetune.base_model import BaseModel, check_length, load_base_model
from finetune.client_group.client_group import ClientGroup
from finetune.client_texts import read_client
from finetune.config import ClientConfig, JobConfig
from finetune.flower import ADAPTER_KEY, CLIENT_KEY, make_client_app, trainer_name
from finetune.flower_records import DenseExchange, Exchange
from finetune.flower_sparse import SparseExchange
from finetune.history import RoundLine
from finetune.in_process_grid import InProcessGrid
from finetune.local_training import LocalTrainer
from finetune.lora import adapter_config, attach_adapter, read_tensors
from finetune.secure_rounds.member import add_secure_sum
from finetune.secure_rounds.secure_job import members_of
from finetune.seeded import Seeded
from finetune.sparsity.ends import SparseEnds
from finetune.trust.identity import BaseIdentity, base_identity
from finetune.updates import Tensors

SERVER_NODE_ID = 1
"""Flower's id of the server; clients count on from it."""


class Observer(Protocol):
    """Who watches a job."""

    def phase(self, text: str) -> None:
        """Something else than local steps goes on now."""

    def step(self, round_number: int, loss: float) -> None:
        """A client took a step."""

    def round_done(self, history: Sequence[RoundLine], *, num_rounds: int) -> None:
        """A round was saved, or a run that goes on was read: these are its rounds so far."""


@dataclass(frozen=True, slots=True)
class Start:
    """What the server's side of a job begins with.

    Attributes:
        identity: Digests of the base model.
        adapter_config: Content of `adapter_config.json`.
        first_tensors: The untrained adapter.
    """

    identity: BaseIdentity
    adapter_config: dict[str, Any]
    first_tensors: Tensors

    @property
    def base_weights_sha256(self) -> str:
        """Digest of the base model's weights."""
        return self.identity.weights.hex()


def load(job: JobConfig, observer: Observer) -> tuple[BaseModel, PeftModel, Start]:
    """Load the base model and put the untrained adapter on it.

    Raises:
        FinetuneError: If the model does not serve.
    """
    observer.phase("loading the base model")
    base = load_base_model(job.model)
    check_length(base, job.sequence_tokens, key="sequence_tokens", name=job.model)
    model = attach_adapter(base.model, job)
    identity = base_identity(base.weights_sha256, base.tokenizer)
    return base, model, Start(identity, adapter_config(model, job), read_tensors(model))


class Federation:
    """A job's clients, joined by Flower in this process."""

    def __init__(self, job: JobConfig, observer: Observer) -> None:
        """Load the base model and read every client's text.

        Raises:
            FinetuneError: If the model or a client's text does not serve.
        """
        base, model, self.start = load(job, observer)
        observer.phase("reading the clients' text")
        self._group = group = client_group(model, job)
        trainers = {
            trainer_name(client.name, {ADAPTER_KEY: adapter}): local_trainer(
                job, own, base, model, observer, group
            )
            for client in job.clients
            for adapter, own in job.texts_of(client).items()
        }
        nodes = {
            number: {CLIENT_KEY: client.name}
            for number, client in enumerate(job.clients, start=SERVER_NODE_ID + 1)
        }
        sparsity, first = job.sparsity, self.start.first_tensors
        self.seeded = seeded_of(job, first)
        self.ends = None if sparsity is None else SparseEnds(first, sparsity, self.seeded)
        sparse = None if self.ends is None else self.ends.clients
        self.ranks = {node: job.client_ranks[str(nodes[node][CLIENT_KEY])] for node in nodes}
        is_secure = job.trust.secure_sum is not None
        app = make_client_app(
            trainers.__getitem__,
            sparse=sparse,
            identity_of=lambda name: self.start.identity,
            gives_updates=not is_secure,
            judge_every=job.judge_every,
            seeded=self.seeded,
        )
        if is_secure:
            add_secure_sum(
                app,
                trainers.__getitem__,
                members_of(job).__getitem__,
                judge_every=job.judge_every,
                sparse=sparse,
                seeded=self.seeded,
            )
        self.grid = InProcessGrid(app, nodes)

    def close(self) -> None:
        """End the processes that clients train with, where there are any."""
        if self._group is not None:
            self._group.close()

    @property
    def exchange(self) -> Exchange:
        """How adapters travel."""
        if self.ends is not None:
            return SparseExchange(self.ends.server)
        return DenseExchange(self.seeded, self.ranks)


def seeded_of(job: JobConfig, first: Tensors) -> Seeded:
    """Return what both ends make of the first adapter, and no message carries."""
    return Seeded.frozen_down(first) if STRATEGIES[job.aggregation].is_down_frozen else Seeded()


def client_group(model: PeftModel, job: JobConfig) -> ClientGroup | None:
    """Return the processes that take a client's steps with this one, where the job wants any."""
    return ClientGroup(model, job) if job.local_training.processes > 1 else None


def local_trainer(
    job: JobConfig,
    client: ClientConfig,
    base: BaseModel,
    model: PeftModel,
    observer: Observer,
    group: ClientGroup | None = None,
) -> LocalTrainer:
    """Read one client's text and return its trainer.

    Raises:
        ClientDataError: If the text does not serve.
    """
    texts = read_client(
        client, held_out_fraction=job.held_out_fraction, render_chat=base.render_chat
    )
    return LocalTrainer(model, base, texts, job, observer.step, group)
