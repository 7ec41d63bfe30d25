"""What a scheduler is told about clients, and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Client:
    """A participant as it joins.

    Attributes:
        name: Unique among those present.
        num_examples: Training sequences it holds, at least 1; its weight among the others.
        adapter_examples: The same for each adapter, where several are trained; one that is not named
            has `num_examples`.
    """

    name: str
    num_examples: int
    adapter_examples: Mapping[str, int] = field(default_factory=dict)

    def examples_of(self, adapter: str) -> int:
        """Return the training sequences it holds for an adapter."""
        return self.adapter_examples.get(adapter, self.num_examples)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Send the client this version of the adapter and let it take this many local steps.

    The number names the update that comes back. Client and version would not do: a client can be
    given the same version twice when nothing was merged in between.

    Attributes:
        number: Unique in the run.
        client: Who trains.
        adapter: Which adapter, where several are trained; else "".
        version: Version of the adapter to start from; 0 is the untrained one.
        steps: Local optimiser steps.
        issued_at_seconds: Time of the decision.
        num_examples: The client's examples for the adapter.
    """

    number: int
    client: str
    adapter: str
    version: int
    steps: int
    issued_at_seconds: float
    num_examples: int


@dataclass(frozen=True, slots=True)
class Contribution:
    """One update in an aggregation.

    Attributes:
        number: Number of the assignment it answers.
        client: Who sent it.
        version: Version it started from.
        weight: Factor of its change, that is of what was trained minus that version.
    """

    number: int
    client: str
    version: int
    weight: float


@dataclass(frozen=True, slots=True)
class Aggregation:
    """Make the next version: the current one plus the weighted sum of the changes.

    Attributes:
        adapter: Which adapter, where several are trained; else "".
        version: Version that is made, one above the current.
        contributions: At least one.
    """

    adapter: str
    version: int
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """Call `deadline(number)` at this time."""

    number: int
    at_seconds: float


@dataclass(frozen=True, slots=True)
class Disarm:
    """The deadline need not be called any more; if it is, nothing happens."""

    number: int


@dataclass(frozen=True, slots=True)
class Discard:
    """The update that came for this assignment counts in no aggregation.

    Attributes:
        number: As the arrival named it.
        reason: For the log and the counter of discarded updates.
    """

    number: int
    reason: str


Decision = Assignment | Aggregation | Arm | Disarm | Discard
"""To be carried out in the order given: an assignment after an aggregation starts from its result."""
