"""The interface of all schedulers: five events in, decisions out.

A scheduler is a dataclass whose fields are its whole state, so that `documents` can write it out and
go on from it. It reads no clock and draws from no generator but one its fields determine.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune.scheduling.decisions import Assignment, Client, Decision, Discard
from finetune.scheduling.ledger import Ledger


@dataclass(slots=True, kw_only=True)
class Scheduler(ABC):
    """Keeps the ledger for the subclass's rules.

    One caller feeds it, one event at a time, `now` in seconds of a monotonic clock; whatever happens
    at one instant is told in any order, one after the other. Every method returns what is to be
    done, in order.
    """

    ledger: Ledger = field(default_factory=Ledger)

    def join(self, clients: Sequence[Client], *, now: float) -> list[Decision]:
        """Take clients in; those that join together begin at one common time.

        Raises:
            ValueError: If a name is taken, or time runs backwards.
        """
        self.ledger.advance(now)
        for client in clients:
            self.ledger.admit(client)
        if self.ledger.is_finished:
            return []
        return self._joined([client.name for client in clients])

    def arrive(
        self,
        number: int,
        *,
        now: float,
        usable: bool = True,
        loss: float | None = None,
        trained_seconds: float | None = None,
    ) -> list[Decision]:
        """Take note that an assignment's answer is here.

        Args:
            number: Of the assignment.
            now: Seconds.
            usable: Whether the update passed the checks; if not, the client is free again.
            loss: Mean training loss it reports.
            trained_seconds: Time the client says its steps took, so that links are not taken for a slow
                machine; None takes all of the time since it was assigned.

        Raises:
            ValueError: If time runs backwards, or the loss of a usable update is not finite.
        """
        if usable and loss is not None and not math.isfinite(loss):
            raise ValueError(f"assignment {number} reports a loss of {loss}; refuse its update")
        self.ledger.advance(now)
        assignment = self.ledger.collect(number)
        if assignment is None:
            return [self._discard(number, "no such assignment is out: answered, left or ended")]
        if trained_seconds is not None:
            self.ledger.learn_overhead(assignment, trained_seconds)
        refused = [] if usable else [self._discard(number, "refused by the checks")]
        return [*refused, *self._arrived(assignment, usable=usable, loss=loss)]

    def deadline(self, number: int, *, now: float) -> list[Decision]:
        """Take note that an armed time has come; one that was called off does nothing.

        Raises:
            ValueError: If time runs backwards.
        """
        self.ledger.advance(now)
        if self.ledger.armed.pop(number, None) is None:
            return []
        return self._timed_out(number)

    def leave(self, client: str, *, now: float) -> list[Decision]:
        """Let a client go; what it sent before still counts, what it sends later does not.

        Raises:
            ValueError: If it is not there, or time runs backwards.
        """
        self.ledger.advance(now)
        assignment = self.ledger.dismiss(client)
        return [] if self.ledger.is_finished else self._left(client, assignment)

    def finish(self, *, now: float) -> list[Decision]:
        """End the run: merge whatever waits, call off every deadline, assign nothing more.

        Raises:
            ValueError: If time runs backwards.
        """
        self.ledger.advance(now)
        decisions: list[Decision] = self._flush()
        for number in list(self.ledger.armed):
            decisions += self.ledger.disarm(number)
        self.ledger.outstanding.clear()
        self.ledger.busy.clear()
        self.ledger.is_finished = True
        return decisions

    def _discard(self, number: int, reason: str) -> Discard:
        self.ledger.num_discarded += 1
        return Discard(number, reason)

    @abstractmethod
    def _joined(self, clients: Sequence[str]) -> list[Decision]:
        """Decide what clients that just joined do."""

    @abstractmethod
    def _arrived(
        self, assignment: Assignment, *, usable: bool, loss: float | None
    ) -> list[Decision]:
        """Decide what becomes of an answer and of its client, which is idle now."""

    @abstractmethod
    def _timed_out(self, number: int) -> list[Decision]:
        """Act on an armed deadline."""

    @abstractmethod
    def _left(self, client: str, assignment: Assignment | None) -> list[Decision]:
        """Go on without a client, and without what it was doing."""

    @abstractmethod
    def _flush(self) -> list[Decision]:
        """Merge everything received that waits to be merged."""
