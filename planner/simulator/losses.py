"""What is left of a fleet when a replica or a market goes, from the start or at an instant."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.errors import InfeasibleError
from planner.simulator.fleet import ServingFleet, SizeShares


@dataclass(frozen=True, slots=True)
class Loss:
    """Replicas that vanish while the trace is served, by rule (L1) of the package."""

    at_seconds: float
    left: ServingFleet
    """The fleet from then on: the same pools with fewer replicas, and the router's new weights.
    `without_replica` and `without_market` make it."""


def check_losses(fleet: ServingFleet, losses: Sequence[Loss]) -> None:
    """Check that losses follow each other in time, and that each only takes replicas away.

    Raises:
        ValueError: If they do not.
    """
    at_seconds = 0.0
    for loss in losses:
        if not at_seconds <= loss.at_seconds < math.inf:
            raise ValueError(
                f"a loss at {loss.at_seconds} s after {at_seconds} s; give finite instants that rise"
            )
        kept = [pool.num_replicas for pool in loss.left.pools]
        had = [pool.num_replicas for pool in fleet.pools]
        alike = [replace(pool, num_replicas=0) for pool in fleet.pools] == [
            replace(pool, num_replicas=0) for pool in loss.left.pools
        ]
        if not alike or any(after > before for after, before in zip(kept, had, strict=True)):
            raise ValueError(
                f"the loss at {loss.at_seconds} s leaves other pools or more replicas; make what is "
                "left of the fleet before it"
            )
        if set(loss.left.shares) != set(fleet.shares):
            raise ValueError(
                f"after the loss at {loss.at_seconds} s the fleet serves "
                f"{', '.join(sorted(loss.left.shares))}; give shares for every model it served"
            )
        at_seconds, fleet = loss.at_seconds, loss.left


def without_replica(
    fleet: ServingFleet, pool: int, *, shares: Mapping[str, SizeShares] | None = None
) -> ServingFleet:
    """Return the fleet with one replica of a pool gone.

    Args:
        fleet: The fleet.
        pool: Its index.
        shares: The weights planned for this loss; nothing: the pool's other replicas take its load,
            and where there are none, each size's remaining pools in proportion to their shares.

    Raises:
        InfeasibleError: If some size is left with nobody to serve it.
        ValueError: If the pool is empty.
    """
    if fleet.pools[pool].num_replicas == 0:
        raise ValueError(f"{fleet.pools[pool].name} has no replica to remove")
    counts = [each.num_replicas - (index == pool) for index, each in enumerate(fleet.pools)]
    return _shrunk(fleet, counts, f"the last replica of {fleet.pools[pool].name}", shares)


def without_market(
    fleet: ServingFleet, market: str, *, shares: Mapping[str, SizeShares] | None = None
) -> ServingFleet:
    """Return the fleet with every replica of a market gone.

    Args:
        fleet: The fleet.
        market: Name of the market.
        shares: The weights planned for this loss; nothing: each size's remaining pools take over in
            proportion to their shares.

    Raises:
        InfeasibleError: If some size is left with nobody to serve it.
        ValueError: If no pool is of the market.
    """
    known = sorted({pool.market for pool in fleet.pools})
    if market not in known:
        raise ValueError(f"no pool is of market {market}; name one of {', '.join(known)}")
    counts = [0 if pool.market == market else pool.num_replicas for pool in fleet.pools]
    return _shrunk(fleet, counts, f"market {market}", shares)


def _shrunk(
    fleet: ServingFleet,
    counts: Sequence[int],
    lost: str,
    shares: Mapping[str, SizeShares] | None,
) -> ServingFleet:
    pools = tuple(
        replace(pool, num_replicas=count) for pool, count in zip(fleet.pools, counts, strict=True)
    )
    if shares is None:
        shares = {
            model: SizeShares(
                sizes.input_tokens_up_to,
                tuple(
                    _taken_over(
                        row, counts, f"without {lost} nobody serves {model}, inputs up to {bound}"
                    )
                    for bound, row in zip(sizes.input_tokens_up_to, sizes.rows, strict=True)
                ),
            )
            for model, sizes in fleet.shares.items()
        }
    return ServingFleet(pools, shares)


def _taken_over(row: Sequence[float], counts: Sequence[int], problem: str) -> tuple[float, ...]:
    kept = [share if count else 0.0 for share, count in zip(row, counts, strict=True)]
    total = sum(kept)
    if total == 0:
        raise InfeasibleError(
            f"{problem}; plan with `survive: [one-market]`, or give shares for this loss"
        )
    # Where the pool keeps replicas nothing moves, to the last bit.
    return tuple(share / total for share in kept) if kept != list(row) else tuple(row)
