"""Linear inequalities in the replica counts alone that every plan satisfies.

Take any prices mu[r] >= 0 of serving a row in full and sigma[r] >= 0 of its share on spot. What n
replicas of column o can earn at these prices is a fractional knapsack,

    V[o](n) = max  sum_r (mu[r] - sigma[r] * spot[o]) * x[r]
              s.t. sum_r load[r,o] * x[r] <= capacity[o](n),   0 <= x[r] <= 1

and a plan serves every row, with at most q of it on spot, so together its columns earn

    sum_o V[o](count[o])  >=  sum_r mu[r] - q * sigma[r].

V is concave over n = 1, 2, ... (capacity is, and V grows ever more slowly with capacity), so the line
through its values at k and k + 1 lies on or above it at every other whole number: with used = 1 for
count >= 1, else 0,

    V[o](n) <= at_once[o] * used[o] + each[o] * count[o],   each = V(k+1) - V(k),  at_once = V(k) - k * each.

For prices and k chosen well these lines describe the counts that carry the load exactly (Benders'
projection), sharpened because V is taken at whole counts: the lines contain the residual-capacity
inequalities of Magnanti, Mirchandani and Vachani (Mathematical Programming 60, 1993).
"""

from dataclasses import dataclass

import numpy as np

from planner.fleet_program.arrays import Demand, Floats


@dataclass(frozen=True, slots=True)
class RowPrices:
    """What serving each row in full is worth, and what its spot share costs; both (R,)."""

    serving: Floats
    spot: Floats | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """sum_o at_once[o] * used[o] + each[o] * count[o] >= needed, over a demand's columns."""

    at_once: Floats
    each: Floats
    needed: float


def cut_at(demand: Demand, prices: RowPrices, counts: Floats) -> Cut:
    """Return the cut whose lines touch V at (O,) whole counts, at least 1, and one more."""
    once = np.ones_like(counts)
    low, high = earnings(
        demand,
        prices,
        (demand.capacity(counts, once), demand.capacity(counts + 1, once)),
    )
    each = high - low
    needed = float(prices.serving.sum())
    if prices.spot is not None and demand.spot_limit is not None:
        needed -= demand.spot_limit * float(prices.spot.sum())
    return Cut(low - counts * each, each, needed)


def earnings(
    demand: Demand, prices: RowPrices, capacities: tuple[Floats, ...]
) -> tuple[Floats, ...]:
    """Return V by column, (O,), for each of several (O,) capacities."""
    num_columns = demand.loads.shape[1]
    worth = np.repeat(prices.serving[:, None], num_columns, axis=1)
    if prices.spot is not None:
        worth -= prices.spot[:, None] * demand.is_spot[None, :]
    serves = np.isfinite(demand.loads)
    worth = np.where(serves, np.maximum(worth, 0.0), 0.0)
    loads = np.where(serves, demand.loads, 1.0)
    best_first = np.argsort(-worth / loads, axis=0, kind="stable")
    loads = np.take_along_axis(np.where(serves, loads, 0.0), best_first, axis=0)
    start = np.zeros((1, num_columns))
    load = np.vstack([start, np.cumsum(loads, axis=0)])
    earned = np.vstack([start, np.cumsum(np.take_along_axis(worth, best_first, 0), axis=0)])
    return tuple(
        np.array(
            [np.interp(room[o], load[:, o], earned[:, o]) for o in range(num_columns)], dtype=float
        )
        for room in capacities
    )
