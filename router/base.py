"""The vocabulary of a replica choice: what a policy sees, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from router.prefix_blocks import NO_BLOCKS, Blocks
from router.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Query:
    """What a policy may know of a request."""

    model: str
    """The model or adapter asked for."""
    fields: Mapping[str, object]
    """The parsed body."""
    draw: float = 0.0
    """Uniform in [0, 1), one for all attempts at a request."""
    known_prompt: Prompt | None = field(default=None, repr=False, compare=False)
    """The input of `fields`, where another query has it already; copies of a query share it."""

    def __post_init__(self) -> None:
        if self.known_prompt is None:
            object.__setattr__(self, "known_prompt", Prompt(self.fields))

    def of_model(self, model: str) -> "Query":
        """Return the query with another model's name."""
        if model == self.model:
            return self
        return Query(model, self.fields, self.draw, self.known_prompt)

    def drawn(self, draw: float) -> "Query":
        """Return the query with its draw."""
        return Query(self.model, self.fields, draw, self.known_prompt)

    @property
    def prompt(self) -> Prompt:
        """The input of `fields`, each fact of it worked out once."""
        assert self.known_prompt is not None
        return self.known_prompt


class Demand(NamedTuple):
    """What a request brings along and will occupy; an estimate."""

    blocks: Blocks = NO_BLOCKS
    """Of its input, seeded with the model's name; none: prefixes do not count."""
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Input and output."""
        return self.input_tokens + self.output_tokens


NO_DEMAND = Demand()


class Candidate(NamedTuple):
    """A replica that may take the request: it passed every filter (`fleet.py`)."""

    url: str
    num_outstanding: int
    """Requests sent to it and not yet ended."""
    offer: str | None = None
    """What it runs on, as the planned weights of the model call it."""
    outstanding_tokens: int = 0
    """Of those requests: input and expected output."""
    capacity_tokens: int | None = None
    """How many it holds at once, as configured; None: not said."""
    prefix_fraction: float = 0.0
    """Share of the request's input that it probably has in its cache, from the beginning."""
    adapter_fit: float = 1.0
    """How ready it is for the request's adapter, 0 to 1; 1 for a base model."""
    latency_seconds: float | None = None
    """What the request would take there by its last answers; None: none lately."""
    weight: float = 1.0
    """How much of the load it should carry, relative to the others; loads are divided by it."""

    @property
    def load(self) -> float:
        """Outstanding requests a unit of weight."""
        return self.num_outstanding / self.weight

    @property
    def token_load(self) -> float:
        """Outstanding tokens a unit of weight."""
        return self.outstanding_tokens / self.weight


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
