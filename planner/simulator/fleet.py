"""The fleet under simulation, and what is left of it when a replica or a market goes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from planner.step_times import StepTimes

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

    def __post_init__(self) -> None:
        if self.num_replicas < 0:
            raise ValueError(f"{self.name}: {self.num_replicas} replicas; give 0 or more")
        if self.kv_capacity_tokens < 1 or self.max_sequences < 1:
            raise ValueError(f"{self.name}: no room for any sequence; give limits of at least 1")
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
        ValueError: If a row of shares does not fit the pools, or gives work to an empty one.
    """

    pools: tuple[ReplicaPool, ...]
    shares: Mapping[str, SizeShares]
    """By model."""

    def __post_init__(self) -> None:
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


def without_replica(fleet: ServingFleet, pool: int) -> ServingFleet:
    """Return the fleet with one replica of a pool gone from the start.

    The pool's other replicas take its load; where there are none, the other pools of each size do.

    Raises:
        ValueError: If the pool is empty, or some size is left with nobody to serve it.
    """
    if fleet.pools[pool].num_replicas == 0:
        raise ValueError(f"{fleet.pools[pool].name} has no replica to remove")
    return _shrunk(
        fleet,
        lambda index, each: each.num_replicas - (index == pool),
        f"the last replica of {fleet.pools[pool].name}",
    )


def without_market(
    fleet: ServingFleet, market: str, *, shares: Mapping[str, SizeShares] | None = None
) -> ServingFleet:
    """Return the fleet with every replica of a market gone from the start.

    Args:
        fleet: The fleet.
        market: Name of the market.
        shares: The weights planned for this loss; nothing: each size's remaining pools take over in
            proportion to their shares.

    Raises:
        ValueError: If no pool is of the market, or some size is left with nobody to serve it.
    """
    if all(pool.market != market for pool in fleet.pools):
        known = sorted({pool.market for pool in fleet.pools})
        raise ValueError(f"no pool is of market {market}; name one of {', '.join(known)}")
    if shares is not None:
        pools = tuple(
            replace(pool, num_replicas=0) if pool.market == market else pool for pool in fleet.pools
        )
        return ServingFleet(pools, shares)
    return _shrunk(
        fleet,
        lambda _, pool: 0 if pool.market == market else pool.num_replicas,
        f"market {market}",
    )


def _shrunk(
    fleet: ServingFleet, num_left: Callable[[int, ReplicaPool], int], lost: str
) -> ServingFleet:
    pools = tuple(
        replace(pool, num_replicas=num_left(index, pool)) for index, pool in enumerate(fleet.pools)
    )
    shares = {}
    for model, sizes in fleet.shares.items():
        rows = []
        for bound, row in zip(sizes.input_tokens_up_to, sizes.rows, strict=True):
            kept = [
                share if pool.num_replicas else 0.0 for pool, share in zip(pools, row, strict=True)
            ]
            total = sum(kept)
            if total == 0:
                raise ValueError(f"without {lost} nobody serves {model}, inputs up to {bound}")
            rows.append(tuple(share / total for share in kept))
        shares[model] = SizeShares(sizes.input_tokens_up_to, tuple(rows))
    return ServingFleet(pools, shares)
