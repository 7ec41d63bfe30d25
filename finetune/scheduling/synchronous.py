"""Rounds: all chosen clients train from one version, and the next is made of what they send.

With a deadline a round ends there, or with its first arrival if that comes later; an update that
comes after its round is discarded, and its client may take part in the next.

Source: McMahan et al. 2017 (arXiv 1602.05629), algorithm 1; the deadline after Bonawitz et al. 2019
(arXiv 1902.01046).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from finetune.scheduling.decisions import Assignment, Decision
from finetune.scheduling.scheduler import Scheduler
from finetune.scheduling.selection import AllClients, Selection, select
from planner.config import StrictModel


class SynchronousSettings(StrictModel):
    """Rounds that end together."""

    kind: Literal["synchronous"] = "synchronous"
    """Chooses this kind."""
    local_steps: int = Field(gt=0)
    """Steps of each client in each round."""
    round_seconds: float | None = Field(default=None, gt=0)
    """Longest round; None waits for everybody."""
    server_rate: float = Field(default=1.0, gt=0)
    """Factor of the round's mean change; 1 is FedAvg."""
    selection: Selection = AllClients()
    """Who takes part in a round."""
    seed: int = Field(default=0, ge=0)
    """Of the draws."""


@dataclass(slots=True, kw_only=True)
class Synchronous(Scheduler):
    """The state of the round.

    Attributes:
        settings: What was asked for.
        received: Answers of the round so far.
        num_awaited: Answers of the round still to come. An assignment belongs to the round if it
            was issued at the current version, for every round makes one.
        round_deadline: Its number, if armed.
        is_overdue: The deadline passed before anything had arrived.
        num_draws: Selections made.
    """

    settings: SynchronousSettings
    received: list[Assignment] = field(default_factory=list)
    num_awaited: int = 0
    round_deadline: int | None = None
    is_overdue: bool = False
    num_draws: int = 0

    def _joined(self, clients: Sequence[str]) -> list[Decision]:
        return self._end_round_if_due()

    def _arrived(
        self, assignment: Assignment, *, usable: bool, loss: float | None
    ) -> list[Decision]:
        self.ledger.measure(assignment)
        decisions: list[Decision] = []
        if self._is_of_this_round(assignment):
            self.num_awaited -= 1
            if usable:
                self.received.append(assignment)
        elif usable:
            decisions = [self._discard(assignment.number, "came after its round had ended")]
        return decisions + self._end_round_if_due()

    def _timed_out(self, number: int) -> list[Decision]:
        self.round_deadline = None
        self.is_overdue = True
        return self._end_round_if_due()

    def _left(self, client: str, assignment: Assignment | None) -> list[Decision]:
        if assignment is not None and self._is_of_this_round(assignment):
            self.num_awaited -= 1
        return self._end_round_if_due()

    def _flush(self) -> list[Decision]:
        if not self.received:
            return []
        total = sum(update.num_examples for update in self.received)
        rate = self.settings.server_rate
        weights = [rate * update.num_examples / total for update in self.received]
        updates, self.received = self.received, []
        return [self.ledger.merge(updates, weights)]

    def _is_of_this_round(self, assignment: Assignment) -> bool:
        return assignment.version == self.ledger.version()

    def _end_round_if_due(self) -> list[Decision]:
        if self.num_awaited > 0 and not (self.is_overdue and self.received):
            return []
        return [*self._flush(), *self._start_round()]

    def _start_round(self) -> list[Decision]:
        decisions: list[Decision] = [*self.ledger.disarm(self.round_deadline)]
        self.round_deadline, self.is_overdue = None, False
        idle = [name for name in self.ledger.clients if name not in self.ledger.busy]
        chosen = select(
            self.settings.selection,
            idle,
            self.ledger.seconds_per_step,
            seed=self.settings.seed,
            draw=self.num_draws,
        )
        self.num_draws += 1
        self.num_awaited = len(chosen)
        for client in chosen:
            decisions.append(self.ledger.issue(client, steps=self.settings.local_steps))
        if chosen and self.settings.round_seconds is not None:
            arm = self.ledger.arm(self.ledger.now_seconds + self.settings.round_seconds)
            self.round_deadline = arm.number
            decisions.append(arm)
        return decisions
