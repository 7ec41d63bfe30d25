"""FedAST: several adapters trained at once by one pool of clients, each through a buffer of its own.

Clients are allotted by measured progress: how much an adapter's training loss falls for each second
of a client's time. Adapters that have little left to gain release clients, and a floor keeps every
one in training.

Source: Askin et al. 2024 (FedAST, arXiv 2406.00302); the measure of progress is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from pydantic import Field, model_validator

from finetune.scheduling.decisions import Assignment, Decision
from finetune.scheduling.fedbuff import buffer_weights
from finetune.scheduling.scheduler import Scheduler
from finetune.scheduling.staleness import Polynomial, Staleness
from planner.config import StrictModel


class FedAstSettings(StrictModel):
    """Several adapters over one pool of clients."""

    kind: Literal["fedast"] = "fedast"
    """Chooses this kind."""
    adapters: tuple[str, ...] = Field(min_length=1)
    """Their names; each client can train every one."""
    local_steps: int = Field(gt=0)
    """Steps of each assignment."""
    buffer_size: int = Field(gt=0)
    """Updates that make an adapter's next version."""
    server_rate: float = Field(default=1.0, gt=0)
    """Factor of the buffer's mean change."""
    staleness: Staleness = Polynomial()
    """How much less an old update counts."""
    floor_fraction: float = Field(default=0.5, gt=0, le=1)
    """Share of the pool that is dealt out equally, whatever the progress."""
    progress_momentum: float = Field(default=0.5, gt=0, le=1)
    """Weight of the newest losses in an adapter's mean loss and in its gain."""

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        if len(set(self.adapters)) < len(self.adapters):
            raise ValueError(f"adapters: {list(self.adapters)} names one twice; give each once")
        return self


@dataclass(slots=True, kw_only=True)
class AdapterProgress:
    """One adapter's buffer and how well its training goes.

    Attributes:
        received: The buffer.
        losses: Training losses its updates reported since stock was taken.
        client_seconds: Time that clients spent on these updates.
        mean_loss: Of earlier updates, smoothed; None before stock was taken once.
        gain: Fall of `mean_loss` for a second of a client's time, smoothed, at least 0; None before
            stock was taken twice.
        num_clients: Clients that train it now.
        is_complete: It needs no more training.
    """

    received: list[Assignment] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    client_seconds: float = 0.0
    mean_loss: float | None = None
    gain: float | None = None
    num_clients: int = 0
    is_complete: bool = False

    def take_stock(self, momentum: float) -> None:
        """Learn the gain, once as many losses are known as clients train the adapter.

        Fewer would tell more of who happened to answer than of progress.
        """
        if len(self.losses) >= max(self.num_clients, 1):
            latest = sum(self.losses) / len(self.losses)
            if self.mean_loss is not None:
                mean = (1 - momentum) * self.mean_loss + momentum * latest
                gain = max(self.mean_loss - mean, 0.0) / max(self.client_seconds, 1e-9)
                earlier = gain if self.gain is None else self.gain
                self.gain = (1 - momentum) * earlier + momentum * gain
                latest = mean
            self.mean_loss = latest
            self.losses, self.client_seconds = [], 0.0


@dataclass(slots=True, kw_only=True)
class FedAst(Scheduler):
    """The adapters' buffers and shares.

    Attributes:
        settings: What was asked for.
        progress: By adapter.
        idle: Clients without work because every adapter is complete.
    """

    settings: FedAstSettings
    progress: dict[str, AdapterProgress] = field(default_factory=dict)
    idle: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin with no progress of any adapter."""
        for adapter in self.settings.adapters:
            self.progress.setdefault(adapter, AdapterProgress())

    def complete(self, adapter: str, *, now: float) -> list[Decision]:
        """Merge an adapter's buffer and train it no more; its clients turn to the others.

        Raises:
            ValueError: If there is no such adapter, or time runs backwards.
        """
        self.ledger.advance(now)
        if adapter not in self.progress:
            raise ValueError(f"adapter {adapter!r} is none of {list(self.progress)}; name one")
        merged = self._merge(adapter)
        self.progress[adapter].is_complete = True
        return merged

    def shares(self) -> dict[str, float]:
        """Return the fraction of the pool each incomplete adapter should have; they sum to 1."""
        live = {name: state for name, state in self.progress.items() if not state.is_complete}
        gains = {name: state.gain for name, state in live.items() if state.gain is not None}
        total = sum(gains.values())
        if len(gains) < len(live) or total <= 0:
            return {name: 1 / len(live) for name in live}
        floor = self.settings.floor_fraction
        return {name: floor / len(live) + (1 - floor) * gains[name] / total for name in live}

    def _joined(self, clients: Sequence[str]) -> list[Decision]:
        decisions: list[Decision] = []
        for client in clients:
            decisions += self._place(client)
        return decisions

    def _arrived(
        self, assignment: Assignment, *, usable: bool, loss: float | None
    ) -> list[Decision]:
        state = self.progress[assignment.adapter]
        state.num_clients -= 1
        decisions: list[Decision] = []
        if usable and state.is_complete:
            decisions = [self._discard(assignment.number, "its adapter needs no more training")]
        elif usable:
            state.received.append(assignment)
            state.client_seconds += self.ledger.now_seconds - assignment.issued_at_seconds
            if loss is not None:
                state.losses.append(loss)
            if len(state.received) >= self.settings.buffer_size:
                decisions = self._merge(assignment.adapter)
        return decisions + self._place(assignment.client)

    def _timed_out(self, number: int) -> list[Decision]:
        raise AssertionError("it arms no deadline")

    def _left(self, client: str, assignment: Assignment | None) -> list[Decision]:
        if assignment is None:
            self.idle.remove(client)
        else:
            self.progress[assignment.adapter].num_clients -= 1
        return []

    def _flush(self) -> list[Decision]:
        return [decision for adapter in self.progress for decision in self._merge(adapter)]

    def _place(self, client: str) -> list[Decision]:
        """Send a client to the adapter that lacks most of its share."""
        shares = self.shares()
        if not shares:
            self.idle.append(client)
            return []
        pool = 1 + sum(self.progress[name].num_clients for name in shares)
        adapter = max(
            shares, key=lambda name: shares[name] * pool - self.progress[name].num_clients
        )
        self.progress[adapter].num_clients += 1
        return [self.ledger.issue(client, steps=self.settings.local_steps, adapter=adapter)]

    def _merge(self, adapter: str) -> list[Decision]:
        state = self.progress[adapter]
        if not state.received:
            return []
        state.take_stock(self.settings.progress_momentum)
        weights = buffer_weights(
            state.received,
            version=self.ledger.version(adapter),
            staleness=self.settings.staleness,
            server_rate=self.settings.server_rate,
        )
        updates, state.received = state.received, []
        return [self.ledger.merge(updates, weights, adapter=adapter)]
