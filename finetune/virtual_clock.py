"""A federation under a virtual clock: real or analytic training, times computed, nothing waits.

An assignment takes the bytes down its client's link, its steps, and the bytes up. Events at one
instant come in a fixed order: answers, clients that leave, clients that join, deadlines; so a run
depends on its arguments alone.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from finetune.scheduling.carry_out import carry_out
from finetune.scheduling.decisions import (
    Aggregation,
    Arm,
    Assignment,
    Client,
    Decision,
    Disarm,
    Discard,
)
from finetune.scheduling.scheduler import Scheduler
from finetune.strategies.changes import apply_changes
from finetune.updates import Tensors

logger = logging.getLogger(__name__)

ANSWER, LEAVE, JOIN, DEADLINE = range(4)
"""Order of events at one instant; an answer at its deadline is on time."""


@dataclass(frozen=True, slots=True)
class SimulatedClient:
    """A participant's machine and link.

    Attributes:
        client: What the scheduler is told.
        seconds_per_step: Of local training.
        download_bytes_per_second: From the server.
        upload_bytes_per_second: To the server.
    """

    client: Client
    seconds_per_step: float
    download_bytes_per_second: float
    upload_bytes_per_second: float


@dataclass(frozen=True, slots=True)
class LocalResult:
    """What one assignment gives.

    Attributes:
        change: Trained tensors minus those sent.
        loss: Mean training loss.
        download_bytes: To the client.
        upload_bytes: From the client.
        is_usable: Whether the server's checks pass it.
    """

    change: Tensors
    loss: float
    download_bytes: int
    upload_bytes: int
    is_usable: bool = True


class LocalWork(Protocol):
    """Local training, without its time."""

    def train(self, tensors: Tensors, assignments: Sequence[Assignment]) -> Sequence[LocalResult]:
        """Return the results, in order, of assignments that start from the same tensors."""


@dataclass(frozen=True, slots=True)
class Presence:
    """A client that joins later than at 0, or leaves.

    Attributes:
        client: Its name.
        joins_at_seconds: From 0 on.
        leaves_at_seconds: After it joined; None stays.
    """

    client: str
    joins_at_seconds: float = 0.0
    leaves_at_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ClockState:
    """A clock between two events, as a value.

    Attributes:
        now_seconds: Virtual time.
        queue: A heap of time, kind, number and client.
        results: Of assignments that were not merged or discarded yet, by number.
        joining: Names of clients to come, by time.
        num_events: Told so far.
        num_aggregations: Versions made so far.
        discards: How often each reason was given.
        download_bytes: So far.
        upload_bytes: So far.
    """

    now_seconds: float
    queue: tuple[tuple[float, int, int, str], ...]
    results: Mapping[int, LocalResult]
    joining: Mapping[float, tuple[str, ...]]
    num_events: int
    num_aggregations: int
    discards: Mapping[str, int]
    download_bytes: int
    upload_bytes: int


Merge = Callable[[Tensors, Aggregation, Sequence[Tensors]], Tensors]
"""Makes the next version of the current tensors and the contributions' changes, in their order."""


def weighted_sum(tensors: Tensors, aggregation: Aggregation, changes: Sequence[Tensors]) -> Tensors:
    """Return the tensors plus the changes by the scheduler's weights."""
    return apply_changes(tensors, changes, [one.weight for one in aggregation.contributions])


class VirtualClock:
    """Feeds a scheduler with events and carries its decisions out.

    Attributes:
        now_seconds: Virtual time.
        scheduler: May be replaced by its equal between events, as a resumed run does.
        adapters: Current tensors by adapter.
        results: Of assignments that were not merged or discarded yet, by number.
        num_events: Events told so far.
        num_aggregations: Versions made so far, of all adapters.
        discards: How often each reason was given.
        download_bytes: To clients so far.
        upload_bytes: From clients so far, counted on arrival.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        work: LocalWork,
        clients: Sequence[SimulatedClient],
        adapters: Mapping[str, Tensors],
        *,
        presences: Sequence[Presence] = (),
        merge: Merge = weighted_sum,
    ) -> None:
        """Set the clock to 0, before any event.

        Args:
            scheduler: Decides.
            work: Trains.
            clients: All that ever take part.
            adapters: First tensors by adapter; a single one's name is "".
            presences: Of clients that are not there from 0 to the end.
            merge: Makes the next version.

        Raises:
            ValueError: If a presence names no client.
        """
        self.now_seconds = 0.0
        self.scheduler = scheduler
        self.adapters = dict(adapters)
        self.num_events = 0
        self.num_aggregations = 0
        self.discards: Counter[str] = Counter()
        self.download_bytes = 0
        self.upload_bytes = 0
        self._work = work
        self._merge = merge
        self._clients = {machine.client.name: machine for machine in clients}
        self.results: dict[int, LocalResult] = {}
        self._joining: dict[float, list[Client]] = {}
        self._queue: list[tuple[float, int, int, str]] = []
        special = {presence.client: presence for presence in presences}
        if unknown := sorted(special.keys() - self._clients.keys()):
            known = ", ".join(sorted(self._clients))
            raise ValueError(f"presences: no client is named {unknown[0]!r}; there are {known}")
        for name, machine in self._clients.items():
            presence = special.get(name, Presence(name))
            self._joining.setdefault(presence.joins_at_seconds, []).append(machine.client)
            if presence.leaves_at_seconds is not None:
                heapq.heappush(self._queue, (presence.leaves_at_seconds, LEAVE, 0, name))
        for at_seconds in self._joining:
            heapq.heappush(self._queue, (at_seconds, JOIN, 0, ""))

    def run(
        self, *, until_seconds: float, on_event: Callable[["VirtualClock"], bool] | None = None
    ) -> None:
        """Go from event to event up to a time, then end the run.

        Args:
            until_seconds: Events after it do not happen.
            on_event: Called after each event is carried out; False ends the run.
        """
        while self._queue and self._queue[0][0] <= until_seconds:
            self.step()
            if on_event is not None and not on_event(self):
                break
        self.carry_out(self.scheduler.finish(now=self.now_seconds))

    def step(self) -> None:
        """Let the next event happen."""
        self.now_seconds, kind, number, name = heapq.heappop(self._queue)
        self.num_events += 1
        self.carry_out(self._tell(kind, number, name))

    def carry_out(self, decisions: Sequence[Decision]) -> None:
        """Do what the scheduler decided, in order; assignments in a row train together."""
        carry_out(decisions, self)

    def arm(self, arm: Arm) -> None:
        """Put a deadline among the events."""
        heapq.heappush(self._queue, (arm.at_seconds, DEADLINE, arm.number, ""))

    def disarm(self, disarm: Disarm) -> None:
        """Leave the event: the scheduler passes over a deadline that was called off."""

    def discard(self, discard: Discard) -> None:
        """Forget a result, and count it by the reason."""
        self.results.pop(discard.number, None)
        self.discards[discard.reason] += 1
        logger.debug("discarded number=%d reason=%r", discard.number, discard.reason)

    @property
    def state(self) -> ClockState:
        """What is to come, and the counts so far."""
        return ClockState(
            now_seconds=self.now_seconds,
            queue=tuple(self._queue),
            results=dict(self.results),
            joining={at: tuple(one.name for one in them) for at, them in self._joining.items()},
            num_events=self.num_events,
            num_aggregations=self.num_aggregations,
            discards=dict(self.discards),
            download_bytes=self.download_bytes,
            upload_bytes=self.upload_bytes,
        )

    def restore(self, state: ClockState) -> None:
        """Go on from a state; scheduler and adapters are restored beside it."""
        self.now_seconds = state.now_seconds
        self._queue = list(state.queue)
        self.results = dict(state.results)
        self._joining = {
            at: [self._clients[name].client for name in names]
            for at, names in state.joining.items()
        }
        self.num_events = state.num_events
        self.num_aggregations = state.num_aggregations
        self.discards = Counter(state.discards)
        self.download_bytes, self.upload_bytes = state.download_bytes, state.upload_bytes

    @property
    def is_idle(self) -> bool:
        """Whether nothing will happen any more."""
        return not self._queue

    def answered(self, number: int) -> list[Decision]:
        """Tell the scheduler that a result is here now, and return what it decides."""
        result = self.results[number]
        self.upload_bytes += result.upload_bytes
        loss = result.loss if result.is_usable else None
        assignment = self.scheduler.ledger.outstanding.get(number)
        return self.scheduler.arrive(
            number,
            now=self.now_seconds,
            usable=result.is_usable,
            loss=loss,
            trained_seconds=None if assignment is None else self._trained_seconds(assignment),
        )

    def _tell(self, kind: int, number: int, name: str) -> list[Decision]:
        now = self.now_seconds
        if kind == ANSWER:
            return self.answered(number)
        if kind == LEAVE:
            return self.scheduler.leave(name, now=now)
        if kind == JOIN:
            return self.scheduler.join(self._joining.pop(now), now=now)
        return self.scheduler.deadline(number, now=now)

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Let clients train from the current versions; each answer comes at its time."""
        by_adapter: dict[str, list[Assignment]] = {}
        for assignment in assignments:
            by_adapter.setdefault(assignment.adapter, []).append(assignment)
        for adapter, same in by_adapter.items():
            results = self._work.train(self.adapters[adapter], same)
            for assignment, result in zip(same, results, strict=True):
                self._send(assignment, result)

    def _send(self, assignment: Assignment, result: LocalResult) -> None:
        machine = self._clients[assignment.client]
        self.download_bytes += result.download_bytes
        self.results[assignment.number] = result
        arrives = (
            self.now_seconds
            + result.download_bytes / machine.download_bytes_per_second
            + self._trained_seconds(assignment)
            + result.upload_bytes / machine.upload_bytes_per_second
        )
        heapq.heappush(self._queue, (arrives, ANSWER, assignment.number, ""))

    def _trained_seconds(self, assignment: Assignment) -> float:
        return assignment.steps * self._clients[assignment.client].seconds_per_step

    def aggregate(self, aggregation: Aggregation) -> None:
        """Make the next version of the adapter of the contributions' changes."""
        changes = [self.results.pop(one.number).change for one in aggregation.contributions]
        tensors = self.adapters[aggregation.adapter]
        self.adapters[aggregation.adapter] = self._merge(tensors, aggregation, changes)
        self.num_aggregations += 1
