"""What a simulation found."""

from collections.abc import Sequence
from dataclasses import dataclass

from planner.simulator.gaps import TokenGaps


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
    """When the first token was out."""
    completion_seconds: Sequence[float]
    """When the last token was out."""
    output_tokens: Sequence[int]
    num_evictions: Sequence[int]
    replica_of: Sequence[int]
    """Index into `replicas`."""
    replicas: tuple[ReplicaUse, ...]
    """Pool by pool, in the order of the fleet."""
    token_gaps: TokenGaps
    """Time between any two tokens of a request, over all requests: per token, not per request."""

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
