"""FedBuff: clients come and go at their own pace, and every so many updates make a version.

A buffer of 1 merges each update alone. That is FedAsync over changes; FedAsync as published mixes
the models themselves, which also pulls the current one back towards the version the client had.

Source: Nguyen et al. 2022 (arXiv 2106.06639), algorithm 1; examples weigh the mean here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from finetune.scheduling.decisions import Assignment, Decision
from finetune.scheduling.scheduler import Scheduler
from finetune.scheduling.selection import generator_of_draw
from finetune.scheduling.staleness import Constant, Hinge, Polynomial, Staleness
from planner.config import StrictModel


class FedBuffSettings(StrictModel):
    """Asynchronous training with a buffer."""

    kind: Literal["fedbuff"] = "fedbuff"
    """Chooses this kind."""
    local_steps: int = Field(gt=0)
    """Steps of each assignment."""
    buffer_size: int = Field(gt=0)
    """Updates that make a version; K in the paper."""
    server_rate: float = Field(default=1.0, gt=0)
    """Factor of the buffer's mean change."""
    staleness: Staleness = Polynomial()
    """How much less an old update counts."""
    concurrency: int | None = Field(default=None, gt=0)
    """Clients that train at once, drawn from the idle ones; None keeps all of them busy."""
    seed: int = Field(default=0, ge=0)
    """Of the draws."""


@dataclass(slots=True, kw_only=True)
class FedBuff(Scheduler):
    """The buffer and the idle clients.

    Attributes:
        settings: What was asked for.
        received: The buffer.
        idle: Clients without an assignment.
        num_draws: Clients drawn.
    """

    settings: FedBuffSettings
    received: list[Assignment] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    num_draws: int = 0

    def _joined(self, clients: Sequence[str]) -> list[Decision]:
        self.idle += clients
        return self._fill()

    def _arrived(
        self, assignment: Assignment, *, usable: bool, loss: float | None
    ) -> list[Decision]:
        if usable:
            self.received.append(assignment)
        merged = self._flush() if len(self.received) >= self.settings.buffer_size else []
        self.idle.append(assignment.client)
        return merged + self._fill()

    def _timed_out(self, number: int) -> list[Decision]:
        raise AssertionError("it arms no deadline")

    def _left(self, client: str, assignment: Assignment | None) -> list[Decision]:
        if assignment is None:
            self.idle.remove(client)
        return self._fill()

    def _flush(self) -> list[Decision]:
        if not self.received:
            return []
        weights = buffer_weights(
            self.received,
            version=self.ledger.version(),
            staleness=self.settings.staleness,
            server_rate=self.settings.server_rate,
        )
        updates, self.received = self.received, []
        return [self.ledger.merge(updates, weights)]

    def _fill(self) -> list[Decision]:
        most = self.settings.concurrency or len(self.ledger.clients)
        decisions: list[Decision] = []
        while self.idle and len(self.ledger.busy) < most:
            client = self.idle.pop(self._draw())
            decisions.append(self.ledger.issue(client, steps=self.settings.local_steps))
        return decisions

    def _draw(self) -> int:
        if self.settings.concurrency is None:
            return 0
        self.num_draws += 1
        generator = generator_of_draw(self.settings.seed, self.num_draws)
        return int(generator.integers(len(self.idle)))


def buffer_weights(
    updates: Sequence[Assignment],
    *,
    version: int,
    staleness: Polynomial | Hinge | Constant,
    server_rate: float,
) -> list[float]:
    """Return each update's weight: its share of the buffer's examples, less by its age.

    Args:
        updates: The buffer.
        version: The current one.
        staleness: Factor by age.
        server_rate: Factor of all.
    """
    total = sum(update.num_examples for update in updates)
    return [
        server_rate * staleness.weight(version - update.version) * update.num_examples / total
        for update in updates
    ]
