"""What a simulation found."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.simulator.gaps import TokenGaps

NUM_BATCHES = 20
"""Equal stretches of arrivals into which a trace is cut, for intervals and progress."""


def batch_edges(num_requests: int) -> tuple[int, ...]:
    """Return the first request of every batch, and the number of requests; batches may be empty."""
    return tuple(num_requests * batch // NUM_BATCHES for batch in range(NUM_BATCHES + 1))


@dataclass(frozen=True, slots=True)
class ReplicaUse:
    """What one replica did."""

    pool: str
    num_requests: int
    num_evictions: int
    busy_fraction: float
    """Time spent in steps, as a share of the time from the first arrival to the last completion.

    A replica is busy with one sequence as with a hundred: this is no measure of how much more
    it could take.
    """


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """Times of every request, in the order of the trace, and the use of every replica."""

    arrival_seconds: Sequence[float]
    first_token_seconds: Sequence[float]
    """When the client had the first token."""
    completion_seconds: Sequence[float]
    """When the client had the last token."""
    output_tokens: Sequence[int]
    num_evictions: Sequence[int]
    num_restarts: Sequence[int]
    """How often its replica was lost."""
    replica_of: Sequence[int]
    """Index into `replicas`; after a restart, of the last."""
    pools: tuple[str, ...]
    """Names, in the order of the fleet."""
    replicas: tuple[ReplicaUse, ...]
    """Pool by pool, in the order of the fleet."""
    token_gaps: tuple[tuple[TokenGaps, ...], ...] | None
    """Time between any two tokens of a request, by batch and pool: per token, not per request. A gap
    belongs to the batch of arrivals during which the run of steps that ends it ended. Nothing where
    tokens were not counted."""

    @property
    def batch_edges(self) -> tuple[int, ...]:
        """Return the first request of every batch of arrivals, and the number of requests."""
        return batch_edges(len(self.arrival_seconds))

    def ttft_seconds(self, requests: slice = slice(None)) -> list[float]:
        """Return the time to first token of a range of requests."""
        starts, arrivals = self.first_token_seconds[requests], self.arrival_seconds[requests]
        return [start - arrival for start, arrival in zip(starts, arrivals, strict=True)]

    def tpot_seconds(self, requests: slice = slice(None)) -> list[float]:
        """Return the time per output token of a range; requests of one token have none."""
        columns = (self.first_token_seconds, self.completion_seconds, self.output_tokens)
        return [
            (last - first) / (tokens - 1)
            for first, last, tokens in zip(*(each[requests] for each in columns), strict=True)
            if tokens > 1
        ]
