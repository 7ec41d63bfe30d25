"""The highest rate of equal requests that one replica holds under latency limits.

This is the mean-field capacity of `steady_state.py`: its TTFT and TPOT are means. Percentiles are
not its business: a plan made from it is verified by simulation and tightened where one misses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from planner.hardware.coefficients import Coefficients
from planner.speed.obstacle import Binding, Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_speed import ReplicaSpeed, replica_speed
from planner.speed.steady_state import SteadyState, SteadyStream

Latency = Literal["ttft", "tpot"]

HALVINGS = 20
"""Steps of the search: the load found is within 2^-20 of what there is room for."""

FULLEST_FRACTION = 0.99
"""Highest share of the time that prompts may take; at 1 their queue has no end."""


@dataclass(frozen=True, slots=True)
class LatencyLimits:
    """Highest mean times; nothing: no limit."""

    ttft_seconds: float | None = None
    """To the first token."""
    tpot_seconds: float | None = None
    """For each further token."""

    def __post_init__(self) -> None:
        """Check that limits are times.

        Raises:
            ValueError: If one is not above 0.
        """
        for name in ("ttft_seconds", "tpot_seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"the limit {name} is {value}; give a time above 0, or none")

    def broken_by(self, state: SteadyState) -> Latency | None:
        """Return which limit the load breaks, TTFT first."""
        if self.ttft_seconds is not None and state.ttft_seconds > self.ttft_seconds:
            return "ttft"
        if self.tpot_seconds is not None and state.tpot_seconds > self.tpot_seconds:
            return "tpot"
        return None


@dataclass(frozen=True, slots=True)
class SustainedRate:
    """What one replica holds of one request size."""

    requests_per_second: float
    """0: it cannot serve the size within the limits."""
    running_sequences: float
    """Mean number of sequences in the cache at that rate."""
    ttft_seconds: float | None
    """Mean at that rate; of a request alone where even that is too slow; nothing: cannot run."""
    tpot_seconds: float | None
    """Likewise; 0 where a request has one token only."""
    binding: str
    """What ends the rate, a `Binding`; for a rate of 0 the obstacle's kind."""
    obstacle: Obstacle | None = None
    """Why the rate is 0."""


def throughput_table(
    design: ReplicaDesign,
    coefficients: Coefficients,
    sizes: Sequence[tuple[int, int]],
    *,
    limits: LatencyLimits,
) -> tuple[SustainedRate, ...]:
    """Return the sustained rate of each `(input_tokens, output_tokens)` on a replica so designed.

    A design that cannot exist yields rates of 0 with its obstacle.

    Raises:
        ValueError: If a size is below 1 token.
    """
    speed = replica_speed(design, coefficients)
    if isinstance(speed, Obstacle):
        return tuple(_refused(speed) for _ in sizes)
    return tuple(
        sustained_rate(speed, input_tokens=inputs, output_tokens=outputs, limits=limits)
        for inputs, outputs in sizes
    )


def sustained_rate(
    speed: ReplicaSpeed, *, input_tokens: int, output_tokens: int, limits: LatencyLimits
) -> SustainedRate:
    """Return the highest rate of requests of this size within the limits.

    Looser limits never lower the rate.

    Raises:
        ValueError: If a length is below 1 token.
    """
    stream = SteadyStream(speed, input_tokens=input_tokens, output_tokens=output_tokens)
    obstacle = _length_obstacle(speed, input_tokens + output_tokens)
    if obstacle is not None:
        return _refused(obstacle)
    alone = stream.at(0.0)
    broken = limits.broken_by(alone)
    if broken is not None:
        return _refused(_latency_obstacle(broken, alone, limits), alone)
    state, binding = _highest(speed, stream, limits)
    if not state.requests_per_second:
        return _refused(
            Obstacle(binding, f"no rate above 0 keeps to its limit on {binding}"), alone
        )
    return SustainedRate(
        requests_per_second=state.requests_per_second,
        running_sequences=state.running_sequences,
        ttft_seconds=state.ttft_seconds,
        tpot_seconds=state.tpot_seconds,
        binding=binding,
    )


def _highest(
    speed: ReplicaSpeed, stream: SteadyStream, limits: LatencyLimits
) -> tuple[SteadyState, Binding]:
    """Return the highest load that breaks no limit, and the limit met just above it."""
    binding: Binding = "compute"
    within, beyond = 0.0, stream.most_requests_per_step
    for _ in range(HALVINGS):
        middle = (within + beyond) / 2
        broken = _broken(speed, stream.at(middle), limits)
        if broken is None:
            within = middle
        else:
            beyond, binding = middle, broken
    return stream.at(within), binding


def _broken(speed: ReplicaSpeed, state: SteadyState, limits: LatencyLimits) -> Binding | None:
    if state.high_cached_tokens > speed.kv_capacity_tokens:
        return "memory"
    if state.high_sequences > speed.max_sequences:
        return "sequences"
    if state.prompt_load_fraction > FULLEST_FRACTION:
        return "compute"
    return limits.broken_by(state)


def _length_obstacle(speed: ReplicaSpeed, tokens: int) -> Obstacle | None:
    if tokens > speed.max_context_tokens:
        return Obstacle(
            "context",
            f"{tokens} tokens exceed the model's context of {speed.max_context_tokens}; "
            "serve the size with another model",
        )
    if tokens > speed.kv_capacity_tokens:
        return Obstacle(
            "memory",
            f"{tokens} tokens exceed the {speed.kv_capacity_tokens} that the cache holds; "
            "take more devices or narrower numbers",
        )
    return None


def _latency_obstacle(broken: Latency, alone: SteadyState, limits: LatencyLimits) -> Obstacle:
    best, limit = getattr(alone, f"{broken}_seconds"), getattr(limits, f"{broken}_seconds")
    return Obstacle(
        broken,
        f"a request alone has a {broken.upper()} of {best:.3g} s, the limit is {limit:.3g} s; "
        "take faster or more devices, or loosen the limit",
        over_limit=best / limit,
    )


def _refused(obstacle: Obstacle, alone: SteadyState | None = None) -> SustainedRate:
    return SustainedRate(
        requests_per_second=0.0,
        running_sequences=0.0,
        ttft_seconds=alone.ttft_seconds if alone else None,
        tpot_seconds=alone.tpot_seconds if alone else None,
        binding=obstacle.kind,
        obstacle=obstacle,
    )
