"""The router of the simulation: rules (R1) and (R2) of the package."""

import math
import random
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate

from planner.simulator.fleet import ServingFleet, SizeShares

ONE_REQUEST = 1 << 40
"""A replica's rank is its outstanding requests times this, plus the turn of its last pick."""


@dataclass(frozen=True, slots=True)
class _Wheel:
    """The pools with a share, each with the draw below which it is picked."""

    below: list[float]
    pools: list[int]


class ShareRouter:
    """Picks pools by the planned weights, and replicas by what is outstanding."""

    def __init__(self, fleet: ServingFleet, *, seed: int) -> None:
        self._draw = random.Random(seed).random
        self._use_shares(fleet)
        # Ranks are unique but for replicas never picked, so a least rank is least outstanding,
        # then picked longest ago; an index finds the first of the never picked.
        self._ranks = [[0] * pool.num_replicas for pool in fleet.pools]
        self._turn = 0

    def pick(self, model: str, input_tokens: int) -> tuple[int, int]:
        """Return the pool and the replica of the pool that a request goes to."""
        wheel = self._wheels[model][bisect_left(self._bounds[model], input_tokens)]
        pool = wheel.pools[bisect_right(wheel.below, self._draw())]
        ranks = self._ranks[pool]
        least = min(ranks)
        replica = ranks.index(least)
        self._turn += 1
        ranks[replica] = (least // ONE_REQUEST + 1) * ONE_REQUEST + self._turn
        return pool, replica

    def completed(self, pool: int, replica: int, num_requests: int) -> None:
        """Take note that requests of a replica have ended."""
        self._ranks[pool][replica] -= num_requests * ONE_REQUEST

    def shrink(self, left: ServingFleet) -> None:
        """Route to what is left of the fleet from now on, by its shares."""
        self._use_shares(left)
        for ranks, pool in zip(self._ranks, left.pools, strict=True):
            del ranks[pool.num_replicas :]

    def _use_shares(self, fleet: ServingFleet) -> None:
        self._bounds = {
            model: sizes.input_tokens_up_to[:-1] for model, sizes in fleet.shares.items()
        }
        self._wheels = {model: _wheels(sizes) for model, sizes in fleet.shares.items()}


def _wheels(sizes: SizeShares) -> list[_Wheel]:
    wheels = []
    for row in sizes.rows:
        pools = [pool for pool, share in enumerate(row) if share > 0]
        below = list(accumulate(row[pool] for pool in pools))
        # Whatever rounding left of 1 is the last pool's.
        wheels.append(_Wheel([*below[:-1], math.inf], pools))
    return wheels
