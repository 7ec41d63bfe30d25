"""What every scheduler keeps: time, versions, clients, assignments that are out, deadlines."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from finetune.scheduling.decisions import (
    Aggregation,
    Arm,
    Assignment,
    Client,
    Contribution,
    Disarm,
)

FASTEST_SECONDS_PER_STEP = 1e-3
"""A client that answers sooner is taken for this fast: a time near 0 would promise it any number of
steps in no time."""


@dataclass(slots=True, kw_only=True)
class Ledger:
    """Bookkeeping only; decides nothing.

    Attributes:
        now_seconds: Time of the last event.
        next_number: For assignments and deadlines alike.
        versions: Versions made of each adapter.
        clients: Those present.
        total_examples: Of those present.
        outstanding: Assignments without an answer; a client has at most one.
        busy: Number of the outstanding assignment by client.
        armed: Time of each deadline to come.
        seconds_per_step: Measured speed; small is fast. Links are included where a client does not
            say how long it trained.
        overhead_seconds: What the latest answer took besides training, of clients that say so.
        num_discarded: Updates that counted in no aggregation.
        is_finished: Nothing is assigned or merged any more.
    """

    now_seconds: float = 0.0
    next_number: int = 1
    versions: dict[str, int] = field(default_factory=dict)
    clients: dict[str, Client] = field(default_factory=dict)
    total_examples: int = 0
    outstanding: dict[int, Assignment] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    armed: dict[int, float] = field(default_factory=dict)
    seconds_per_step: dict[str, float] = field(default_factory=dict)
    overhead_seconds: dict[str, float] = field(default_factory=dict)
    num_discarded: int = 0
    is_finished: bool = False

    def advance(self, now: float) -> None:
        """Set the time.

        Raises:
            ValueError: If it runs backwards, as a wall clock may.
        """
        if not now >= self.now_seconds:
            raise ValueError(
                f"now is {now}, before {self.now_seconds}; give a monotonic clock's time"
            )
        self.now_seconds = now

    def admit(self, client: Client) -> None:
        """Take a client in.

        Raises:
            ValueError: If its name is taken or it claims no examples.
        """
        if client.name in self.clients:
            raise ValueError(f"client {client.name!r} is present already; let it leave first")
        if client.num_examples < 1:
            raise ValueError(
                f"client {client.name!r} has {client.num_examples} examples, not 1 or more"
            )
        self.clients[client.name] = client
        self.total_examples += client.num_examples

    def dismiss(self, client: str) -> Assignment | None:
        """Let a client go and return the assignment it leaves undone.

        Raises:
            ValueError: If there is none of the name.
        """
        if client not in self.clients:
            raise ValueError(f"client {client!r} is not present; only those that joined can leave")
        self.total_examples -= self.clients.pop(client).num_examples
        self.seconds_per_step.pop(client, None)
        self.overhead_seconds.pop(client, None)
        number = self.busy.get(client)
        return None if number is None else self.collect(number)

    def version(self, adapter: str = "") -> int:
        """Return the current version of an adapter."""
        return self.versions.get(adapter, 0)

    def issue(self, client: str, *, steps: int, adapter: str = "") -> Assignment:
        """Give an idle client work on the current version."""
        assert client not in self.busy
        assignment = Assignment(
            number=self._take_number(),
            client=client,
            adapter=adapter,
            version=self.version(adapter),
            steps=steps,
            issued_at_seconds=self.now_seconds,
            num_examples=self.clients[client].examples_of(adapter),
        )
        self.outstanding[assignment.number] = assignment
        self.busy[client] = assignment.number
        return assignment

    def collect(self, number: int) -> Assignment | None:
        """Strike an assignment off, and return it unless it is not outstanding."""
        assignment = self.outstanding.pop(number, None)
        if assignment is not None:
            del self.busy[assignment.client]
        return assignment

    def learn_overhead(self, assignment: Assignment, trained_seconds: float) -> None:
        """Take note of what an answer that comes now took besides training: the links, above all.

        A client that claims more time than passed is believed that it trained all the time.
        """
        elapsed = self.now_seconds - assignment.issued_at_seconds
        self.overhead_seconds[assignment.client] = max(elapsed - max(trained_seconds, 0.0), 0.0)

    def measure(
        self,
        assignment: Assignment,
        *,
        momentum: float = 0.9,
        floor: float = FASTEST_SECONDS_PER_STEP,
    ) -> float:
        """Learn a client's speed from an answer that comes now, and return it.

        Args:
            assignment: What it answers.
            momentum: Weight of this answer against the earlier ones.
            floor: Seconds per step, above 0, below which no client is believed.
        """
        elapsed = self.now_seconds - assignment.issued_at_seconds
        trained = elapsed - self.overhead_seconds.get(assignment.client, 0.0)
        latest = max(trained / assignment.steps, floor)
        earlier = self.seconds_per_step.get(assignment.client, latest)
        speed = (1 - momentum) * earlier + momentum * latest
        self.seconds_per_step[assignment.client] = speed
        return speed

    def arm(self, at_seconds: float) -> Arm:
        """Ask for a deadline."""
        number = self._take_number()
        self.armed[number] = at_seconds
        return Arm(number, at_seconds)

    def disarm(self, number: int | None) -> list[Disarm]:
        """Call off a deadline, if there is one and it has not passed."""
        if number is None or self.armed.pop(number, None) is None:
            return []
        return [Disarm(number)]

    def merge(
        self, updates: Sequence[Assignment], weights: Sequence[float], *, adapter: str = ""
    ) -> Aggregation:
        """Make the adapter's next version of answered assignments."""
        self.versions[adapter] = self.version(adapter) + 1
        contributions = tuple(
            Contribution(update.number, update.client, update.version, weight)
            for update, weight in zip(updates, weights, strict=True)
        )
        return Aggregation(adapter, self.versions[adapter], contributions)

    def _take_number(self) -> int:
        self.next_number += 1
        return self.next_number - 1
