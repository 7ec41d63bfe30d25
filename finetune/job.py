"""A whole job in one process: read the clients, federate, judge, write the adapter."""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel

from finetune.adapters import (
    ClientLosses,
    Manifest,
    digest,
    read_adapter,
    weights_bytes,
    write_adapter,
)
from finetune.aggregation import STRATEGIES, Aggregation
from finetune.annealing import rank_of_round
from finetune.base_model import BaseModel, load_base_model
from finetune.client_texts import read_client
from finetune.config import ClientConfig, JobConfig
from finetune.errors import BaseModelError
from finetune.flower import CLIENT_KEY, make_client_app, make_server_app
from finetune.flower_sparse import SparseExchange
from finetune.in_process_grid import InProcessGrid
from finetune.local_training import LocalTrainer
from finetune.lora import adapter_config, attach_adapter, read_tensors
from finetune.rounds import Clients, FederationState, RoundRecord, judge, run_rounds
from finetune.run_folder import RunFolder
from finetune.secure_rounds.member import add_secure_sum
from finetune.secure_rounds.secure_job import clients_of, members_of
from finetune.sparsity.ends import SparseEnds
from finetune.trust.checks import Checks
from finetune.trust.identity import BaseIdentity, base_identity
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Evaluation, Tensors

logger = logging.getLogger(__name__)

SERVER_NODE_ID = 1
"""Flower's id of the server; clients count on from it."""


class Observer(Protocol):
    """Who watches a job."""

    def phase(self, text: str) -> None:
        """Something else than local steps goes on now."""

    def step(self, round_number: int, loss: float) -> None:
        """A client took a step."""


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
    _check_length(base, job)
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
        trainers = {
            client.name: local_trainer(job, client, base, model, observer) for client in job.clients
        }
        nodes = {
            number: {CLIENT_KEY: name}
            for number, name in enumerate(trainers, start=SERVER_NODE_ID + 1)
        }
        sparsity, first = job.sparsity, self.start.first_tensors
        self.ends = None if sparsity is None else SparseEnds(first, sparsity)
        is_secure = job.trust.secure_sum is not None
        app = make_client_app(
            trainers.__getitem__,
            sparse=None if self.ends is None else self.ends.clients,
            identity_of=lambda name: self.start.identity,
            gives_updates=not is_secure,
        )
        if is_secure:
            add_secure_sum(app, trainers.__getitem__, members_of(job).__getitem__)
        self.grid = InProcessGrid(app, nodes)


def local_trainer(
    job: JobConfig, client: ClientConfig, base: BaseModel, model: PeftModel, observer: Observer
) -> LocalTrainer:
    """Read one client's text and return its trainer.

    Raises:
        ClientDataError: If the text does not serve.
    """
    texts = read_client(
        client, held_out_fraction=job.held_out_fraction, render_chat=base.render_chat
    )
    return LocalTrainer(model, base, texts, job, observer.step)


def run_job(job: JobConfig, *, folder: Path, observer: Observer) -> Manifest:
    """Run a job to its end, going on where an interrupted run of it stopped.

    A finished run is not repeated. Nothing is written before model and clients have been read.

    Args:
        job: What to do; its `output` is not looked at.
        folder: The run folder.
        observer: Told of phases and local steps.

    Returns:
        The manifest of the adapter in `folder / "adapter"`.

    Raises:
        FinetuneError: If the job cannot be run as asked.
    """
    run = RunFolder(folder)
    run.check(job)
    if run.adapter.exists():
        logger.info("run is finished folder=%s", folder)
        return read_adapter(run.adapter)
    federation = Federation(job, observer)
    exchange = None if federation.ends is None else SparseExchange(federation.ends.server)
    start = federation.start
    checks = trust_of(job, start.identity).checks
    server = make_server_app(
        lambda clients: serve(clients, start, job, run, observer, federation.ends),
        clients_of=lambda grid: clients_of(grid, job, checks, exchange),
    )
    with run.started(job):
        server(federation.grid, federation.grid.server_context())
    return read_adapter(run.adapter)


def aggregation_of(job: JobConfig) -> Aggregation:
    """Return how the job's updates become one adapter."""
    return Aggregation(
        STRATEGIES[job.aggregation],
        job.scale,
        partial(rank_of_round, rank=job.rank, final_rank=job.last_rank, num_rounds=job.rounds),
        job.client_ranks,
    )


def serve(
    clients: Clients,
    start: Start,
    job: JobConfig,
    run: RunFolder,
    observer: Observer,
    ends: SparseEnds | None = None,
) -> None:
    """Judge the base model, run the rounds that `run` does not hold, write the adapter.

    Args:
        clients: The participants, wherever they are.
        start: What the job begins with.
        job: What to do.
        run: Where it is kept.
        observer: Told of phases.
        ends: Both ends of a sparse job in one process, to be kept with each round.

    Raises:
        FinetuneError: If the job cannot be done.
    """
    base_digest = start.base_weights_sha256

    def save(state: FederationState, record: RoundRecord) -> None:
        run.append_metrics(record)
        if ends is not None:
            state = replace(state, memory=ends.memory)
        run.save(state, base_weights_sha256=base_digest)

    state = run.load(base_weights_sha256=base_digest)
    if state is None:
        observer.phase("judging the base model")
        base_losses = judge(clients, start.first_tensors)
        state = FederationState(0, start.first_tensors, base_losses)
        run.save(state, base_weights_sha256=base_digest)
    else:
        if ends is not None and state.memory is not None:
            ends.restore(state.memory)
        logger.info("run resumed folder=%s completed_rounds=%d", run.folder, state.completed_rounds)
        clients.tell(state.refusals)
    state = run_rounds(
        state,
        clients,
        aggregation=aggregation_of(job),
        num_rounds=job.rounds,
        save=save,
        trust=trust_of(job, start.identity),
    )
    observer.phase("judging the adapter")
    losses = judge(clients, state.tensors)
    weights = weights_bytes(state.tensors)
    write_adapter(
        run.adapter,
        config=start.adapter_config,
        weights=weights,
        manifest=_manifest(job, state, losses, base_digest, digest(weights)),
    )


def trust_of(job: JobConfig, identity: BaseIdentity) -> RoundTrust:
    """Return what a job's server asks of updates and makes of them, on this base model."""
    checks = Checks(
        identity=identity,
        most_norm=job.trust.most_norm,
        most_product_norm=job.trust.most_product_norm,
        scale=job.alpha / job.rank,
    )
    return RoundTrust(job.trust, checks, num_expected=len(job.clients))


def _manifest(
    job: JobConfig,
    state: FederationState,
    losses: tuple[Evaluation, ...],
    base_digest: str,
    adapter_digest: str,
) -> Manifest:
    # A client that is away for one of the two judgements has no loss to compare.
    base_losses = {before.client: before.loss for before in state.base_losses}
    return Manifest(
        base_model=job.model,
        base_weights_sha256=base_digest,
        adapter_sha256=adapter_digest,
        rank=job.last_rank,
        alpha=job.last_alpha,
        target_modules=job.target_modules,
        job=job.name,
        method=job.aggregation,
        rounds=state.completed_rounds,
        num_refused_updates=state.num_refused,
        clients=tuple(
            ClientLosses(
                name=after.client,
                held_out_tokens=after.num_tokens,
                base_loss=base_losses[after.client],
                adapter_loss=after.loss,
            )
            for after in losses
            if after.client in base_losses
        ),
    )


def _check_length(base: BaseModel, job: JobConfig) -> None:
    longest = base.context_tokens
    if longest is not None and job.sequence_tokens > longest:
        raise BaseModelError(
            f"sequence_tokens {job.sequence_tokens} is more than the {longest} that "
            f"{job.model!r} takes; lower it"
        )
