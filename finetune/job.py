"""A whole job in one process: read the clients, federate, judge, write the adapter."""

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from finetune.adapters import (
    Manifest,
    TrafficBytes,
    digest,
    read_adapter,
    weights_bytes,
    write_adapter,
)
from finetune.aggregation import STRATEGIES, Aggregation
from finetune.annealing import rank_of_round
from finetune.compatibility import transformations
from finetune.config import JobConfig
from finetune.factors import common_rank
from finetune.federation import Federation, Observer, Start
from finetune.flower import make_server_app
from finetune.held_out import HeldOut, compared, of_adapter
from finetune.history import RoundLine
from finetune.patience import IN_PROCESS
from finetune.rounds import (
    Clients,
    FederationState,
    Judges,
    RoundRecord,
    judge,
    report_held_out,
    run_rounds,
)
from finetune.run_folder import RunFolder
from finetune.scheduled_rounds.desk import InProcessWorkers
from finetune.scheduled_rounds.memory import flattened, unflattened
from finetune.scheduled_rounds.scheduled_job import (
    PooledJudges,
    Reach,
    Save,
    num_versions,
    run_schedule,
)
from finetune.secure_rounds.secure_job import clients_of
from finetune.sparsity.ends import ServerEnd, SparseEnds
from finetune.trust.checks import Checks
from finetune.trust.identity import BaseIdentity
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Evaluation, Tensors

logger = logging.getLogger(__name__)


def ended_run(run: RunFolder, job: JobConfig, *, goes_on: bool) -> Manifest | None:
    """Return the manifest of a run that has nothing left to do, or None.

    That is a finished run, or one that was asked to stop and is not to go on.

    Raises:
        FinetuneError: If its adapter is damaged.
    """
    if not run.is_finished(job):
        return None
    manifests = [read_adapter(run.adapter_of(name)) for name in job.adapter_names]
    manifest = min(manifests, key=lambda manifest: manifest.rounds)
    if manifest.rounds < job.rounds and goes_on:
        return None
    if manifest.rounds < job.rounds:
        logger.warning(
            "run was stopped folder=%s completed_rounds=%d num_rounds=%d hint=%r",
            run.folder,
            manifest.rounds,
            job.rounds,
            "--go-on trains the others",
        )
    else:
        logger.info("run is finished folder=%s", run.folder)
    return manifest


def run_job(job: JobConfig, *, folder: Path, observer: Observer, goes_on: bool = False) -> Manifest:
    """Run a job to its end, going on where an interrupted run of it stopped.

    A finished run is not repeated. Nothing is written before model and clients have been read.

    Args:
        job: What to do; its `output` is not looked at.
        folder: The run folder.
        observer: Told of phases, local steps and rounds.
        goes_on: Train the other rounds of a run that was asked to stop; its adapter is set aside.

    Returns:
        The manifest of the adapter in `folder / "adapter"`.

    Raises:
        FinetuneError: If the job cannot be run as asked.
    """
    run = RunFolder(folder)
    run.check(job)
    if (ended := ended_run(run, job, goes_on=goes_on)) is not None:
        return ended
    federation = Federation(job, observer)
    start = federation.start
    checks = trust_of(job, start.identity).checks
    exchange = federation.exchange
    reach = Reach(InProcessWorkers(federation.grid, exchange), exchange, IN_PROCESS)
    server = make_server_app(
        lambda clients: serve(clients, start, job, run, observer, federation.ends, reach),
        clients_of=lambda grid: clients_of(grid, job, checks, exchange, seeded=federation.seeded),
    )
    with closing(federation), run.started(job):
        run.set_adapters_aside(job)
        server(federation.grid, federation.grid.server_context())
    return read_adapter(run.adapter_of(job.adapter_names[0]))


def aggregation_of(job: JobConfig) -> Aggregation:
    """Return how the job's updates become one adapter."""
    return Aggregation(
        STRATEGIES[job.aggregation],
        job.scale,
        partial(rank_of_round, rank=job.rank, final_rank=job.last_rank, num_rounds=job.rounds),
        job.client_ranks,
        is_turned_back=job.parts().is_turned_back,
    )


def serve(
    clients: Clients,
    start: Start,
    job: JobConfig,
    run: RunFolder,
    observer: Observer,
    ends: SparseEnds | ServerEnd | None = None,
    reach: Reach | None = None,
) -> None:
    """Judge the base model, run the rounds that `run` does not hold, write the adapter.

    Args:
        clients: The participants, wherever they are.
        start: What the job begins with.
        job: What to do.
        run: Where it is kept.
        observer: Told of phases.
        ends: What this process remembers of a sparse job, to be kept with each round.
        reach: The participants, as a scheduler's assignments reach them.

    Raises:
        FinetuneError: If the job cannot be done.
    """
    base_digest = start.base_weights_sha256
    done = transformations(job.parts())
    if done:
        logger.info("parts combined transformations=%s", done)
    judges: Judges = clients
    if job.adapters and reach is not None:
        judges = PooledJudges(reach.workers, job.adapter_names)
    state = _first_state(judges, clients, start, job, run, observer, ends)
    history = run.history()
    if history:
        observer.round_done(history, num_rounds=job.num_versions)

    def save(state: FederationState, records: Sequence[RoundRecord]) -> FederationState:
        for record in records:
            run.append_metrics(record)
        if ends is not None:
            state = replace(state, memory=ends.memory)
        run.save(state, base_weights_sha256=base_digest)
        for record in records:
            history.append(RoundLine.of(record))
            observer.round_done(history, num_rounds=job.num_versions)
        return state

    state = _trained(state, clients, start, job, reach, save, run.is_stop_asked)
    observer.phase("judging the adapter")
    judgement = judge(judges, state.tensors)
    held_out = HeldOut.of(judgement.evaluations, base=state.base_losses)
    report_held_out(held_out, completed_rounds=state.completed_rounds)
    state = replace(state, totals=judgement.added_to(state.totals))
    for name, tensors in unflattened(state.tensors).items():
        if not run.adapter_of(name).exists():  # an interrupted run may have written it already
            _export(job, start, run, state, judgement.evaluations, name, tensors)


def _first_state(
    judges: Judges,
    clients: Clients,
    start: Start,
    job: JobConfig,
    run: RunFolder,
    observer: Observer,
    ends: SparseEnds | ServerEnd | None,
) -> FederationState:
    """Return the last state that was saved, or judge the base model and save the first one."""
    base_digest = start.base_weights_sha256
    state = run.load(base_weights_sha256=base_digest)
    if state is not None:
        if ends is not None and state.memory is not None:
            ends.restore(state.memory)
        logger.info("run resumed folder=%s completed_rounds=%d", run.folder, state.completed_rounds)
        if job.scheduling is None:  # a scheduler's desk tells them itself
            clients.tell(state.refusals)
        return state
    observer.phase("judging the base model")
    judgement = judge(judges, None)
    first = flattened(dict.fromkeys(job.adapter_names, start.first_tensors))
    state = FederationState(0, first, judgement.evaluations)
    state = replace(state, totals=judgement.added_to(state.totals))
    run.save(state, base_weights_sha256=base_digest)
    return state


def _trained(
    state: FederationState,
    clients: Clients,
    start: Start,
    job: JobConfig,
    reach: Reach | None,
    save: Save,
    is_stop_asked: Callable[[], bool],
) -> FederationState:
    """Run what `state` has not done: rounds, or what the job's scheduler decides."""
    aggregation, trust = aggregation_of(job), trust_of(job, start.identity)
    if job.scheduling is None or reach is None:
        return run_rounds(
            state,
            clients,
            aggregation=aggregation,
            num_rounds=job.rounds,
            save=lambda state, record: save(state, [record]),
            trust=trust,
            is_stop_asked=is_stop_asked,
        )
    return run_schedule(
        state,
        reach,
        job=job,
        aggregation=aggregation,
        trust=trust,
        save=save,
        is_stop_asked=is_stop_asked,
    )


def _export(
    job: JobConfig,
    start: Start,
    run: RunFolder,
    state: FederationState,
    losses: Sequence[Evaluation],
    name: str,
    tensors: Tensors,
) -> None:
    """Write an adapter at the rank it has, which in a run that was stopped may be above the last."""
    weights = weights_bytes(tensors)
    rank = common_rank(tensors)
    alpha = job.alpha * rank / job.rank
    manifest = Manifest(
        base_model=job.model,
        base_weights_sha256=start.base_weights_sha256,
        adapter_sha256=digest(weights),
        rank=rank,
        alpha=alpha,
        target_modules=job.target_modules,
        job=job.name,
        method=job.aggregation,
        rounds=num_versions(state, name),
        num_refused_updates=state.num_refused,
        traffic=TrafficBytes(**asdict(state.totals)),
        # A client that is away for one of the two judgements has no loss to compare.
        clients=compared(of_adapter(state.base_losses, name), of_adapter(losses, name)),
    )
    config = start.adapter_config | {"r": rank, "lora_alpha": alpha}
    write_adapter(run.adapter_of(name), config=config, weights=weights, manifest=manifest)


def trust_of(job: JobConfig, identity: BaseIdentity) -> RoundTrust:
    """Return what a job's server asks of updates and makes of them, on this base model."""
    checks = Checks(
        identity=identity,
        most_norm=job.trust.most_norm,
        most_product_norm=job.trust.most_product_norm,
        scale=job.alpha / job.rank,
    )
    return RoundTrust(job.trust, checks, num_expected=job.num_asked, mask=job.shared_mask)
