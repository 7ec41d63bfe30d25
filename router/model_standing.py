"""What the fleet says of a model right now: whether it can answer, and how fast it lately was."""

from collections.abc import Callable, Mapping
from typing import Protocol

from router.fleet import Fleet
from router.output_length import OutputLengths


class ModelStanding(Protocol):
    """The live figures a choice of a model needs."""

    def is_available(self, model: str) -> bool:
        """Return whether some replica could take a request for `model`."""
        ...

    def output_tokens(self, model: str, fields: Mapping[str, object]) -> float:
        """Return how many tokens the answer to a body would have."""
        ...

    def seconds(self, model: str, output_tokens: float) -> float | None:
        """Return how long an answer of so many tokens would take; None: not measured lately."""
        ...


class FleetStanding:
    """Reads the figures off the fleet's replicas and what their answers have taught."""

    def __init__(
        self, fleet: Fleet, lengths: OutputLengths, *, monotonic: Callable[[], float]
    ) -> None:
        """Judge by `fleet` and `lengths`; `monotonic` is the clock of the fleet's latencies."""
        self._fleet = fleet
        self._lengths = lengths
        self._monotonic = monotonic

    def is_available(self, model: str) -> bool:
        """Return whether a healthy replica serves `model`."""
        return any(each.is_healthy for each in self._fleet.serving(model))

    def output_tokens(self, model: str, fields: Mapping[str, object]) -> float:
        """Return what answers of the model usually have, and no more than the request allows."""
        return self._lengths.expected(model, fields)

    def seconds(self, model: str, output_tokens: float) -> float | None:
        """Return what the fastest healthy replica would take by its last answers."""
        now = self._monotonic()
        told = [
            each.latency.expected_seconds(round(output_tokens), now=now)
            for each in self._fleet.serving(model)
            if each.is_healthy
        ]
        return min((seconds for seconds in told if seconds is not None), default=None)
