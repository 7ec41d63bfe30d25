"""The server's side of a job: rounds of training, aggregation, checkpoint. Knows no Flower."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from finetune.aggregation import FEDAVG, Aggregation, AggregationError
from finetune.errors import RoundError
from finetune.factors import common_rank
from finetune.held_out import HeldOut, Judgement, sifted
from finetune.scheduled_rounds.memory import ScheduleMemory
from finetune.sparsity.memory import SparseMemory
from finetune.traffic import Content, Totals, Traffic
from finetune.trust.checks import FORM_ONLY, Checks
from finetune.trust.round_trust import CHECKS_ONLY, RoundTrust
from finetune.updates import Evaluation, Refusal, Tensors, Update

logger = logging.getLogger(__name__)

_ANEW = "lower learning_rate and start anew in another folder with --output"
"""A run is of one job: with another learning rate it cannot be continued."""


@dataclass(frozen=True, slots=True)
class Replies:
    """What came back from the clients in one round.

    Attributes:
        updates: Decoded replies, not yet checked.
        refusals: Clients that failed, and replies that could not be decoded.
        download_bytes: Serialised length of everything sent to the clients.
        download: The same by what it says.
        upload: What came back, refused replies included, by what it says.
    """

    updates: Sequence[Update]
    refusals: Sequence[Refusal]
    download_bytes: int
    download: Traffic = field(default_factory=Traffic)
    upload: Traffic = field(default_factory=Traffic)

    @classmethod
    def of(
        cls,
        updates: Sequence[Update],
        refusals: Sequence[Refusal],
        download_bytes: int,
        *,
        downloads: Iterable[Content],
        uploads: Iterable[Content],
    ) -> "Replies":
        """Return the replies with their bytes split by what the messages carry."""
        upload_bytes = sum(update.sent_bytes for update in updates)
        upload_bytes += sum(refusal.sent_bytes for refusal in refusals)
        return cls(
            updates,
            refusals,
            download_bytes,
            download=Traffic.of(download_bytes, downloads),
            upload=Traffic.of(upload_bytes, uploads),
        )


class Judges(Protocol):
    """Who can tell how good an adapter is."""

    def evaluate(self, tensors: Tensors | None) -> Judgement:
        """Return the loss of `tensors` on every client's held-out text; None is the base model."""


class Clients(Protocol):
    """The participants, wherever they run."""

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every client train from `tensors` and return what came back."""

    def evaluate(self, tensors: Tensors | None) -> Judgement:
        """Return the loss of `tensors` on every client's held-out text.

        None judges the base model, for which no client needs to be sent anything.
        """

    def tell(self, refusals: Sequence[Refusal]) -> None:
        """Have each refused client learn the reason with the next message it gets."""


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What a scheduled job's line of metrics says beside the others.

    Attributes:
        adapter: Whose version it is; "" where there is one.
        version: Counts from 1.
        at_seconds: The scheduler's time: virtual, or of the run's processes together.
        ages: Versions made since each merged client was sent its own; the last of several.
        discards: Updates that were left out since the line before, by the reason.
    """

    adapter: str
    version: int
    at_seconds: float
    ages: dict[str, int]
    discards: dict[str, int]


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One line of `metrics.jsonl`.

    Attributes:
        round: Counts from 1.
        loss: Mean training loss of each accepted client, nats a token.
        refused: Reason for each refused client.
        download_bytes: Serialised bytes to all clients.
        upload_bytes: Serialised bytes from all clients, refused ones included.
        seconds: Wall time of the round.
        rank: Of the adapter that was trained.
        aggregation_error: How far the new adapter is from the mean of the clients' products, of
            those that trust left, or from the sum of products where older updates count by them;
            None where trust itself made one update of them, or changes of factors were added.
        download: `download_bytes` split into values, positions and headers.
        upload: `upload_bytes` split so.
        epsilon: Differential privacy spent so far, None without it.
        held_out: How clients judged the adapter that the round began with, where that was due; of
            those whose update counts.
        schedule: What there is to say where a scheduler decides who trains.
    """

    round: int
    loss: dict[str, float]
    refused: dict[str, str]
    download_bytes: int
    upload_bytes: int
    seconds: float
    rank: int | None = None
    aggregation_error: AggregationError | None = None
    download: Traffic = field(default_factory=Traffic)
    upload: Traffic = field(default_factory=Traffic)
    epsilon: float | None = None
    held_out: HeldOut = field(default_factory=HeldOut)
    schedule: VersionFacts | None = None


@dataclass(frozen=True, slots=True)
class FederationState:
    """Everything a later round depends on; saved whole after each round.

    Attributes:
        completed_rounds: Rounds that are in `tensors`.
        tensors: The global adapter.
        base_losses: The untrained adapter judged by every client, which is the base model.
        num_refused: Updates refused so far.
        memory: What both ends of a sparse job remember beside it, as of the last checkpoint.
        refusals: Those of the last round, whose clients must be told.
        totals: Bytes so far.
        schedule: What a scheduled job remembers beside it. Of several adapters the names of the
            tensors begin with the adapter's and a slash.
    """

    completed_rounds: int
    tensors: Tensors
    base_losses: tuple[Evaluation, ...]
    num_refused: int = 0
    memory: SparseMemory | None = None
    refusals: tuple[Refusal, ...] = ()
    totals: Totals = field(default_factory=Totals)
    schedule: ScheduleMemory | None = None


def run_rounds(
    state: FederationState,
    clients: Clients,
    *,
    aggregation: Aggregation = FEDAVG,
    num_rounds: int,
    save: Callable[[FederationState, RoundRecord], object],
    trust: RoundTrust = CHECKS_ONLY,
    clock: Callable[[], float] = time.monotonic,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> FederationState:
    """Run the rounds that `state` has not completed and return the last state.

    Asked to stop, it goes no further than the end of a round; one at least is run.

    Raises:
        RoundError: If a round gives no usable update.
        CohortError: If one gives too few for a robust rule.
        PrivacyBudgetError: If one would spend more privacy than the job allows.
    """
    while state.completed_rounds < num_rounds:
        state, record = run_round(state, clients, aggregation=aggregation, trust=trust, clock=clock)
        save(state, record)
        if is_stop_asked():
            logger.info("run stops early completed_rounds=%d", state.completed_rounds)
            break
    return state


def run_round(
    state: FederationState,
    clients: Clients,
    *,
    aggregation: Aggregation = FEDAVG,
    trust: RoundTrust = CHECKS_ONLY,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[FederationState, RoundRecord]:
    """Train everywhere, check what comes back, aggregate.

    Raises:
        RoundError: If no client gives a usable update.
        CohortError: If fewer do than a robust rule needs.
        PrivacyBudgetError: If the round would spend more privacy than the job allows.
    """
    started = clock()
    round_number = state.completed_rounds + 1
    epsilon = trust.spend(round_number)
    replies = clients.train(state.tensors, round_number=round_number)
    updates = [aggregation.completed(update, state.tensors) for update in replies.updates]
    accepted, refused = check(
        replace(replies, updates=updates),
        like=state.tensors,
        checks=trust.checks,
        version=round_number,
    )
    report_refusals(refused, round_number=round_number)
    clients.tell(refused)
    if not accepted:
        raise RoundError(_nothing_usable(round_number, refused))
    tensors, error = combined(accepted, state.tensors, aggregation, trust, round_number)
    held_out = _held_out_before(round_number, accepted, state.base_losses)
    report_held_out(held_out, completed_rounds=state.completed_rounds)
    upload_bytes = _upload_bytes(accepted, refused)
    record = RoundRecord(
        round=round_number,
        loss={update.client: update.loss for update in accepted},
        refused={refusal.client: refusal.reason for refusal in refused},
        download_bytes=replies.download_bytes,
        upload_bytes=upload_bytes,
        rank=common_rank(state.tensors),
        aggregation_error=error,
        seconds=round(clock() - started, 3),
        download=replies.download,
        upload=replies.upload,
        epsilon=epsilon,
        held_out=held_out,
    )
    state = replace(
        state,
        completed_rounds=round_number,
        tensors=tensors,
        num_refused=state.num_refused + len(refused),
        refusals=tuple(refused),
        totals=state.totals.with_round(
            download_bytes=replies.download_bytes, upload_bytes=upload_bytes
        ),
    )
    return state, record


def _upload_bytes(accepted: Sequence[Update], refused: Sequence[Refusal]) -> int:
    return sum(one.sent_bytes for one in accepted) + sum(one.sent_bytes for one in refused)


def _held_out_before(
    round_number: int, accepted: Sequence[Update], base: Sequence[Evaluation]
) -> HeldOut:
    """Return how the adapter that a round began with was judged."""
    if round_number == 1:  # it was the base model, against which nothing has changed
        return HeldOut.of(base, base=())
    return HeldOut.of((one for update in accepted for one in update.held_out), base=base)


def combined(
    accepted: Sequence[Update],
    start: Tensors,
    aggregation: Aggregation,
    trust: RoundTrust,
    round_number: int,
    *,
    mixed: Callable[[Sequence[Update]], Sequence[Update]] = list,
) -> tuple[Tensors, AggregationError | None]:
    """Return the next adapter, and its distance from exact where trust left single updates.

    Args:
        accepted: Updates that passed the checks, in the form of `start`; at least one.
        start: What all of them began from.
        aggregation: The job's.
        trust: The job's.
        round_number: The round that ends.
        mixed: What is averaged in place of the updates that trust leaves.

    Raises:
        CohortError: If there are fewer updates than a robust rule needs.
    """
    # Completed again: what trust adds to entries that clients do not send must not count.
    believed = mixed(
        [
            aggregation.completed(update, start)
            for update in trust.believed(accepted, start=start, round_number=round_number)
        ]
    )
    tensors, error = aggregation.combine(believed, like=start, round_number=round_number)
    if trust.makes_the_mean:
        logger.info("updates aggregated round=%d updates=%d", round_number, len(accepted))
        return tensors, None
    logger.info(
        "updates aggregated round=%d updates=%d aggregation_error=%.6g relative=%.6g",
        round_number,
        len(believed),
        error.absolute,
        error.relative,
    )
    return tensors, error


def check(
    replies: Replies, *, like: Tensors, checks: Checks = FORM_ONLY, version: int | None = None
) -> tuple[list[Update], list[Refusal]]:
    """Return the updates fit to aggregate, and every refusal."""
    accepted: list[Update] = []
    refused = list(replies.refusals)
    heard: set[str] = set()
    for update in replies.updates:
        reason = checks.reason(update, like=like, version=version)
        if update.client in heard:
            reason = "answered this round already"
        heard.add(update.client)
        if reason is None:
            accepted.append(update)
        else:
            refused.append(Refusal(update.client, reason, update.sent_bytes, update.node_id))
    return accepted, refused


def report_refusals(refused: Sequence[Refusal], *, round_number: int) -> None:
    """Log each refused update; the round goes on with the weights of the others renormalised."""
    for refusal in refused:
        logger.warning(
            "update refused round=%d client=%s reason=%r",
            round_number,
            refusal.client,
            refusal.reason,
        )


def report_held_out(held_out: HeldOut, *, completed_rounds: int) -> None:
    """Log how the adapter of so many rounds was judged, and each number that is not believed."""
    for client, reason in held_out.refused.items():
        logger.warning(
            "held-out loss refused completed_rounds=%d client=%s reason=%r",
            completed_rounds,
            client,
            reason,
        )
    if held_out.mean is not None:
        logger.info(
            "adapter judged completed_rounds=%d clients=%d held_out_mean=%.4f worst=%s "
            "worst_change=%+.4f",
            completed_rounds,
            len(held_out.loss),
            held_out.mean,
            held_out.worst,
            0.0 if held_out.worst_change is None else held_out.worst_change,
        )


def judge(clients: Judges, tensors: Tensors | None) -> Judgement:
    """Return every client's held-out loss, without those that are not believed.

    Args:
        clients: Who judges.
        tensors: The adapter; None judges the base model.

    Raises:
        RoundError: If none is believed.
    """
    judgement = clients.evaluate(tensors)
    believed, refused = sifted(judgement.evaluations)
    if not believed:
        reasons = "; ".join(f"client {client!r} {reason}" for client, reason in refused.items())
        raise RoundError(
            f"no held-out loss is believed ({reasons}); check the base model, or {_ANEW}"
        )
    for client, reason in refused.items():
        logger.warning("judgement refused client=%s reason=%r", client, reason)
    return replace(judgement, evaluations=believed)


def _nothing_usable(round_number: int, refused: Sequence[Refusal]) -> str:
    reasons = "; ".join(f"{refusal.client}: {refusal.reason}" for refusal in refused)
    return (
        f"round {round_number}: every update was refused ({reasons}); mend the clients and run "
        f"the job again to continue after the last good round, or {_ANEW}"
    )
