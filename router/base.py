"""The vocabulary of a replica choice: what a policy sees, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Query:
    """What a policy may know of a request."""

    model: str
    """The model or adapter asked for."""
    fields: Mapping[str, object]
    """The parsed body."""
    draw: float = 0.0
    """Uniform in [0, 1), one for all attempts at a request."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that may take the request: it serves the model, is healthy, and is untried."""

    url: str
    num_outstanding: int
    """Requests sent to it and not yet ended."""
    offer: str | None = None
    """What it runs on, as the planned weights of the model call it."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of one pick, with what it was based on."""

    url: str
    """The replica picked."""
    reason: str
    """A stable word for logs and counters."""
    scores: tuple[tuple[str, float], ...]
    """Each candidate's URL and score; the policy's header says which end is better."""
    offer: str | None = None
    """The offer drawn, where the model has planned weights."""


class Policy(Protocol):
    """Picks one replica out of those that may take a request."""

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the decision; `candidates` is never empty and is not changed."""
        ...
