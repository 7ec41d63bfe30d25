"""The fleet under simulation."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from planner.speed.step_times import StepTimes

SHARES_TOLERANCE = 1e-6
"""How far a size's shares may sum to other than 1: the rounding of a plan file."""


@dataclass(frozen=True, slots=True)
class ReplicaPool:
    """The replicas of one offer that serve one model: all alike.

    Raises:
        ValueError: If a limit is out of range.
    """

    name: str
    market: str
    """Where they are bought: replicas of one market can vanish together."""
    num_replicas: int
    step_times: StepTimes
    kv_capacity_tokens: int
    """Tokens whose keys and values fit one replica."""
    max_sequences: int
    """Sequences a replica computes at once."""
    max_batched_tokens: int
    """Budget of a step: prompt tokens and one for each decoding sequence."""
    request_overhead_seconds: float = 0.0
    """By which the client has every token later than the step that emits it ends."""

    def __post_init__(self) -> None:
        if self.num_replicas < 0:
            raise ValueError(f"{self.name}: {self.num_replicas} replicas; give 0 or more")
        if self.kv_capacity_tokens < 1 or self.max_sequences < 1:
            raise ValueError(f"{self.name}: no room for any sequence; give limits of at least 1")
        if not 0 <= self.request_overhead_seconds < math.inf:
            raise ValueError(
                f"{self.name}: a request costs {self.request_overhead_seconds} s beside its steps; "
                "give 0 or more"
            )
        if self.max_batched_tokens < self.max_sequences:
            raise ValueError(
                f"{self.name}: {self.max_sequences} sequences do not fit a step of "
                f"{self.max_batched_tokens} tokens; raise max_batched_tokens"
            )


@dataclass(frozen=True, slots=True)
class SizeShares:
    """How one model's requests of each input size are split over the fleet's pools.

    Raises:
        ValueError: If bounds do not rise, or a row is no distribution.
    """

    input_tokens_up_to: tuple[int, ...]
    """Upper ends of the input ranges, rising; longer inputs count to the last range."""
    rows: tuple[tuple[float, ...], ...]
    """Share by range and pool; every row sums to 1."""

    def __post_init__(self) -> None:
        bounds = self.input_tokens_up_to
        if not bounds or list(bounds) != sorted(set(bounds)) or len(bounds) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows of shares for bounds {bounds}; let them rise")
        for bound, row in zip(bounds, self.rows, strict=True):
            is_share = all(math.isfinite(share) and share >= 0 for share in row)
            if not is_share or abs(sum(row) - 1) > SHARES_TOLERANCE:
                raise ValueError(f"inputs up to {bound}: shares {row} do not sum to 1")


@dataclass(frozen=True, slots=True)
class ServingFleet:
    """Pools of replicas, and the router's weights over them.

    Raises:
        ValueError: If two pools have one name, or a row of shares does not fit the pools or gives
            work to an empty one.
    """

    pools: tuple[ReplicaPool, ...]
    shares: Mapping[str, SizeShares]
    """By model."""

    def __post_init__(self) -> None:
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ValueError(f"pools are named {', '.join(names)}; give each a name of its own")
        if not self.shares:
            raise ValueError("the fleet serves no model; give shares for at least one")
        for model, sizes in self.shares.items():
            for row in sizes.rows:
                if len(row) != len(self.pools):
                    raise ValueError(f"{model}: {len(row)} shares for {len(self.pools)} pools")
                for pool, share in zip(self.pools, row, strict=True):
                    if share > 0 and pool.num_replicas == 0:
                        raise ValueError(
                            f"{model}: a share of {share} for {pool.name}, which is empty"
                        )
