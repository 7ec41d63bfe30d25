"""The versions of a scheduled job: made from its first adapter, or on from a checkpoint."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune.aggregation import Aggregation
from finetune.config import JobConfig
from finetune.errors import RoundError
from finetune.flower import ADAPTER_KEY, read_evaluation
from finetune.flower_records import Exchange, judge_record, serialised_bytes
from finetune.held_out import Judgement
from finetune.patience import Patience
from finetune.rounds import FederationState, RoundRecord
from finetune.scheduled_rounds.desk import Desk, Workers
from finetune.scheduled_rounds.ending import Ending
from finetune.scheduled_rounds.job_clock import JobClock
from finetune.scheduled_rounds.memory import SEPARATOR, ScheduleMemory, flattened, unflattened
from finetune.scheduled_rounds.merger import Merger
from finetune.scheduled_rounds.real_time import RealTime
from finetune.scheduling.config import SynchronousScheduling, settings_of
from finetune.scheduling.decisions import Client
from finetune.scheduling.documents import from_document, make_scheduler, to_document
from finetune.scheduling.scheduler import Scheduler
from finetune.seeded import EVERYTHING_CROSSES
from finetune.strategies.fedstale import StaleMemory
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Refusal, Tensors

logger = logging.getLogger(__name__)

Save = Callable[[FederationState, Sequence[RoundRecord]], FederationState]
"""Writes a state and the lines of metrics that led to it; returns what it has written."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How a scheduled job's clients are reached.

    Attributes:
        workers: The nodes.
        exchange: How adapters travel.
        patience: How long to wait for them, where time is real.
        facts: Put into the configuration of every message.
    """

    workers: Workers
    exchange: Exchange
    patience: Patience
    facts: Mapping[str, str] = field(default_factory=dict)


Runner = JobClock | RealTime
"""Keeps the time of a run."""


def run_schedule(
    state: FederationState,
    reach: Reach,
    *,
    job: JobConfig,
    aggregation: Aggregation,
    trust: RoundTrust,
    save: Save,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> FederationState:
    """Run a scheduled job from `state` to its last version and return the last state.

    Under the virtual clock it is saved with each version: what comes after is computed again. In
    real time it is saved whenever something happened, so that no answer is lost that has been taken.

    Raises:
        RoundError: If no client is left.
        ValueError: If `state` holds no scheduler's document that can be read.
    """
    desk, scheduler = _desk(job, state, reach, aggregation, trust), _scheduler(job, state)
    runner = _runner(job, state, desk, scheduler, reach)
    while not scheduler.ledger.is_finished:
        runner.step()
        records = desk.merger.take_records()
        if records or (isinstance(runner, RealTime) and runner.has_happened):
            state = save(_state(state, desk, runner, records), records)
        if records and is_stop_asked():
            logger.info("run stops as asked versions=%d", state.completed_rounds)
            break
    return state


class PooledJudges:
    """Judges the adapters of a job with several, in one process; see `rounds.Clients`."""

    def __init__(self, workers: Workers, adapters: Sequence[str]) -> None:
        """Keep the nodes and the adapters' names."""
        self._workers = workers
        self._adapters = adapters

    def evaluate(self, tensors: Tensors | None) -> Judgement:
        """Return each adapter's loss on each client's held-out text, as of ADAPTER/CLIENT.

        Args:
            tensors: Of all adapters, as `memory.flattened` names them; None judges the base model.

        Raises:
            RoundError: If a node fails.
        """
        evaluations, download_bytes, upload_bytes = [], 0, 0
        own = dict.fromkeys(self._adapters) if tensors is None else unflattened(tensors)
        for adapter in self._adapters:
            content = judge_record(own[adapter], EVERYTHING_CROSSES)
            content["config"][ADAPTER_KEY] = adapter
            for node in self._workers.connected():
                message_id, num_bytes = self._workers.post("evaluate", node, content)
                download_bytes += num_bytes
                reply = None if message_id is None else self._workers.pull(message_id)
                if reply is None or isinstance(reply, str):
                    raise RoundError(f"node {node} could not judge {adapter!r}; run the job again")
                upload_bytes += serialised_bytes(reply)
                one = read_evaluation(reply)
                evaluations.append(replace(one, client=f"{adapter}{SEPARATOR}{one.client}"))
        return Judgement(tuple(evaluations), download_bytes, upload_bytes)


def num_versions(state: FederationState, adapter: str) -> int:
    """Return how many versions of an adapter a state's scheduler has made."""
    if state.schedule is None:
        return state.completed_rounds
    return from_document(state.schedule.scheduler).ledger.version(adapter)


def _scheduler(job: JobConfig, state: FederationState) -> Scheduler:
    assert job.scheduling is not None, "only a job with a scheduler gets here"
    if state.schedule is not None:
        return from_document(state.schedule.scheduler)
    return make_scheduler(settings_of(job.scheduling))


def _desk(
    job: JobConfig,
    state: FederationState,
    reach: Reach,
    aggregation: Aggregation,
    trust: RoundTrust,
) -> Desk:
    config, memory = job.scheduling, state.schedule
    is_synchronous = isinstance(config, SynchronousScheduling)
    stale = config.fedstale if isinstance(config, SynchronousScheduling) else None
    merger = Merger(
        aggregation=aggregation,
        trust=trust,
        is_synchronous=is_synchronous,
        beta=None if stale is None else stale.beta,
        clock=reach.patience.clock,
        adapters=dict(unflattened(state.tensors)),
        order={client.name: place for place, client in enumerate(job.clients)},
        num_versions=state.completed_rounds,
        num_refused=state.num_refused,
        base_losses=state.base_losses,
    )
    desk = Desk(reach.workers, reach.exchange, merger, facts=reach.facts)
    desk.untold_names = {refusal.client: refusal.reason for refusal in state.refusals}
    if memory is not None:
        merger.answers, merger.tally = dict(memory.answers), memory.tally
        merger.stale = StaleMemory(dict(memory.stale))
        desk.issued, desk.starts = dict(memory.issued), dict(memory.starts)
        desk.refusals_in_a_row = dict(memory.refusals)
    return desk


def _runner(
    job: JobConfig, state: FederationState, desk: Desk, scheduler: Scheduler, reach: Reach
) -> Runner:
    config, memory = job.scheduling, state.schedule
    assert config is not None, "only a job with a scheduler gets here"
    ending = Ending(job.adapter_names, job.rounds, config.most_refusals)
    if config.virtual_clock is None:
        return RealTime(
            scheduler, desk, ending, reach.patience, is_one_at_a_time=job.sparsity is not None
        )
    refusals = dict(desk.refusals_in_a_row)
    clients = _met(desk)
    if memory is not None:
        desk.refusals_in_a_row = refusals
        for name in [name for name in desk.nodes if name not in scheduler.ledger.clients]:
            desk.dismiss(name)
    clock = JobClock(scheduler, desk, ending, config.virtual_clock.machines, clients)
    if memory is not None and memory.clock is not None:
        clock.go_on(memory.clock)
    return clock


def _met(desk: Desk) -> list[Client]:
    """Return the clients of this process.

    Raises:
        RoundError: If one does not say who it is.
    """
    clients = []
    for node in desk.workers.connected():
        message_id = desk.hello(node)
        reply = None if message_id is None else desk.workers.pull(message_id)
        try:
            clients.append(desk.admit(node, "gave no answer" if reply is None else reply))
        except ValueError as error:
            raise RoundError(f"node {node} {error}; mend it and run the job again") from None
    return clients


def _state(
    state: FederationState, desk: Desk, runner: Runner, records: Sequence[RoundRecord]
) -> FederationState:
    merger, totals = desk.merger, state.totals
    for one in records:
        totals = totals.with_round(download_bytes=one.download_bytes, upload_bytes=one.upload_bytes)
    return replace(
        state,
        completed_rounds=merger.num_versions,
        tensors=flattened(merger.adapters),
        num_refused=merger.num_refused,
        totals=totals,
        refusals=(
            *(
                Refusal(desk.client_of(node), reason, 0, node)
                for node, reason in desk.untold.items()
            ),
            *(Refusal(client, reason, 0) for client, reason in desk.untold_names.items()),
        ),
        schedule=ScheduleMemory(
            scheduler=to_document(runner.scheduler),
            answers=dict(merger.answers),
            starts=dict(desk.starts),
            stale=dict(merger.stale.changes),
            tally=merger.tally,
            issued=dict(desk.issued),
            refusals=dict(desk.refusals_in_a_row),
            clock=runner.memory if isinstance(runner, JobClock) else None,
        ),
    )
