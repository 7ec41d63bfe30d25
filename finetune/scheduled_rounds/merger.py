"""The server's adapters in a scheduled job: answers kept until a version is made of them.

Where all answers of a version began from the one before it, that is in synchronous rounds, they are
aggregated as in any job. Otherwise each counts as the change that it made to what it began from, with
the scheduler's weight; see `stale_updates`.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from finetune.aggregation import Aggregation, AggregationError
from finetune.factors import common_rank
from finetune.held_out import HeldOut, of_adapter
from finetune.rounds import RoundRecord, VersionFacts, combined, report_held_out
from finetune.scheduled_rounds.answers import Answer, Tally
from finetune.scheduling import decisions
from finetune.stale_updates import next_version, stale_change
from finetune.strategies.changes import apply_changes, change
from finetune.strategies.fedstale import StaleMemory, mix
from finetune.traffic import Traffic
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Evaluation, Refusal, Tensors, Update

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Merger:
    """Adapters, answers and counts of one job.

    Attributes:
        aggregation: How the job's updates become one adapter.
        trust: What it believes and adds.
        is_synchronous: Whether each version is made of whole updates of the one before it.
        beta: FedStale's; None remembers nothing.
        clock: Seconds that only grow, for the lines' wall times.
        adapters: Current tensors by adapter.
        order: Places of the clients; whole updates are summed in this order.
        num_examples: Of every client that takes part.
        answers: Read, by the number of their assignment, and not yet merged or discarded.
        stale: What FedStale remembers.
        tally: What happened since the last version.
        num_versions: Of all adapters together: lines of metrics.
        num_refused: Answers refused so far.
        base_losses: The base model judged by every client, of several adapters as of ADAPTER/CLIENT.
        records: Lines not yet taken.
    """

    aggregation: Aggregation
    trust: RoundTrust
    is_synchronous: bool
    beta: float | None
    clock: Callable[[], float]
    adapters: dict[str, Tensors]
    order: Mapping[str, int]
    num_examples: dict[str, int] = field(default_factory=dict)
    answers: dict[int, Answer] = field(default_factory=dict)
    stale: StaleMemory = field(default_factory=StaleMemory)
    tally: Tally = field(default_factory=Tally)
    num_versions: int = 0
    num_refused: int = 0
    base_losses: Sequence[Evaluation] = ()
    records: list[RoundRecord] = field(default_factory=list)
    _line_began: float = 0.0

    def __post_init__(self) -> None:
        """Begin the first line's time."""
        self._line_began = self.clock()

    def read(
        self,
        outcome: Update | Refusal,
        *,
        start: Tensors,
        version: int,
        declared: int,
        upload: Traffic,
    ) -> Answer:
        """Return a reply as an answer: checked, in the form of the adapter, clipped, as it is merged.

        Args:
            outcome: What was decoded.
            start: The adapter the client was sent.
            version: Its version.
            declared: What the reply must declare to answer.
            upload: The reply's bytes by what they say.
        """
        if isinstance(outcome, Update):
            update = self.aggregation.completed(outcome, start)
            reason = self.trust.checks.reason(update, like=start, version=declared)
            if reason is None:
                return Answer(
                    client=update.client,
                    tensors=self._to_merge(update, start, declared),
                    num_examples=update.num_examples,
                    loss=update.loss,
                    version=version,
                    upload_bytes=update.sent_bytes,
                    upload=upload,
                    held_out=update.held_out,
                )
            outcome = Refusal(update.client, reason, update.sent_bytes, update.node_id)
        return Answer(
            client=outcome.client,
            tensors={},
            num_examples=0,
            loss=0.0,
            version=version,
            upload_bytes=outcome.sent_bytes,
            upload=upload,
            refusal=outcome,
        )

    def came(self, answer: Answer) -> None:
        """Count an answer that has reached the server, and log it if it is refused."""
        self.tally = self.tally.came(answer.upload_bytes, answer.upload)
        if answer.refusal is not None:
            self.lost(answer.refusal)

    def lost(self, refusal: Refusal) -> None:
        """Count and log a client whose assignment gives no update."""
        self.tally = self.tally.refusing(refusal)
        self.num_refused += 1
        logger.warning("update refused client=%s reason=%r", refusal.client, refusal.reason)

    def forget(self, client: str) -> None:
        """Take note that a client has left: nothing stands in for it any more."""
        self.num_examples.pop(client, None)
        self.stale.changes.pop(client, None)

    def discard(self, discard: decisions.Discard) -> None:
        """Drop an answer that counts in no version, and count it."""
        answer = self.answers.pop(discard.number, None)
        if answer is not None and answer.refusal is not None:
            return  # counted and logged as it came
        self.tally = self.tally.discarding(discard.reason)
        logger.info("update left out number=%d reason=%r", discard.number, discard.reason)

    def merge(self, made: decisions.Aggregation, *, now: float) -> None:
        """Make an adapter's next version, and its line of metrics."""
        start = self.adapters[made.adapter]
        answers = [self.answers.pop(one.number) for one in made.contributions]
        epsilon = self.trust.spend(made.version)
        if self.is_synchronous:
            self.adapters[made.adapter], error = self._of_whole(answers, start, made.version)
        else:
            self.adapters[made.adapter], error = next_version(
                start,
                [answer.tensors for answer in answers],
                [one.weight for one in made.contributions],
                self.aggregation,
                version=made.version,
            )
        self._write_line(made, answers, start, now, epsilon, error)

    def take_records(self) -> list[RoundRecord]:
        """Return the lines since the last call."""
        records, self.records = self.records, []
        return records

    def _to_merge(self, update: Update, start: Tensors, round_number: int) -> Tensors:
        if self.is_synchronous:
            return update.tensors
        (believed,) = self.trust.believed([update], start=start, round_number=round_number)
        trained = self.aggregation.completed(believed, start).tensors
        return stale_change(trained, start, self.aggregation)

    def _of_whole(
        self, answers: Sequence[Answer], start: Tensors, version: int
    ) -> tuple[Tensors, AggregationError | None]:
        updates = [
            Update(one.client, one.tensors, one.num_examples, one.loss, one.upload_bytes)
            for one in sorted(answers, key=lambda one: self.order[one.client])
        ]
        tensors, error = combined(
            updates,
            start,
            self.aggregation,
            self.trust,
            version,
            mixed=lambda believed: self._with_absent(believed, start),
        )
        if common_rank(tensors) != common_rank(start):
            self.stale.forget()
        return tensors, error

    def _with_absent(self, updates: Sequence[Update], start: Tensors) -> Sequence[Update]:
        if self.beta is None:
            return updates
        fresh = {update.client: change(update.tensors, start) for update in updates}
        examples = self.num_examples | {one.client: one.num_examples for one in updates}
        mean = mix(fresh, self.stale.changes, examples, beta=self.beta)
        self.stale.remember(fresh)
        tensors = apply_changes(start, [mean], [1.0])
        return [replace(updates[0], client="mean with the absent", tensors=tensors)]

    def _held_out(self, made: decisions.Aggregation, answers: Sequence[Answer]) -> HeldOut:
        """Return how the clients that a version is made of judged what each began from."""
        base = of_adapter(self.base_losses, made.adapter)
        if made.version == 1:  # it was the base model, against which nothing has changed
            return HeldOut.of(base, base=())
        # A client whose two answers wait for one version has judged what the later began from.
        latest = {one.client: one for answer in answers for one in answer.held_out}
        return HeldOut.of(latest.values(), base=base)

    def _write_line(
        self,
        made: decisions.Aggregation,
        answers: Sequence[Answer],
        start: Tensors,
        now: float,
        epsilon: float | None,
        error: AggregationError | None,
    ) -> None:
        self.num_versions += 1
        tally, self.tally = self.tally, Tally()
        ended = self.clock()
        held_out = self._held_out(made, answers)
        report_held_out(held_out, completed_rounds=self.num_versions - 1)
        ages = {one.client: made.version - 1 - one.version for one in made.contributions}
        logger.info(
            "version made adapter=%r version=%d at_seconds=%.3f updates=%d oldest=%d",
            made.adapter,
            made.version,
            now,
            len(answers),
            max(ages.values()),
        )
        self.records.append(
            RoundRecord(
                round=self.num_versions,
                loss={answer.client: answer.loss for answer in answers},
                refused=tally.refused,
                download_bytes=tally.download_bytes,
                upload_bytes=tally.upload_bytes,
                seconds=round(ended - self._line_began, 3),
                rank=common_rank(start),
                aggregation_error=error,
                download=tally.download,
                upload=tally.upload,
                epsilon=epsilon,
                held_out=held_out,
                schedule=VersionFacts(made.adapter, made.version, now, ages, tally.discards),
            )
        )
        self._line_began = ended
