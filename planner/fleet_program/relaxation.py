"""Cuts that close the continuous relaxation, found in rounds between an inner and an outer point.

The master's relaxed counts lie outside what carries the demands; a known point lies inside. Each round
asks, for every demand, about the point half-way: where it is short, the cut found cuts off the
outer point too, and deeper than one found there; where it is not, it becomes the inner point.

Source: in-out separation, Ben-Ameur and Neto, Networks 49 (2007), section 3.
"""

from collections.abc import Callable, Sequence

import numpy as np

from planner.fleet_program.arrays import Demand, FleetArrays, Floats
from planner.fleet_program.counts_master import CountsMaster, Relaxed
from planner.fleet_program.cuts import cut_at
from planner.fleet_program.transport import Transport

HALF_WAY = 0.5
CLOSED = 1e-3
"""The relative distance between inner and outer cost at which a relaxation counts as closed."""

STALLED_ROUNDS = 15
"""Rounds over which the bound must rise by `STALLED` of itself."""
STALLED = 2e-4


def close_relaxation(
    master: CountsMaster,
    arrays: FleetArrays,
    transports: Sequence[Transport],
    *,
    seconds: float,
    clock: Callable[[], float],
) -> Relaxed:
    """Add cuts until inner and outer costs meet, the bound stalls or the time is up."""
    started = clock()
    inner = [_inside(arrays, demand) for demand in arrays.demands]
    bounds: list[float] = []
    outer = master.relax()
    while outer.bound_usd_per_hour < float("inf"):
        bounds.append(outer.bound_usd_per_hour)
        num_short = 0
        for index, demand in enumerate(arrays.demands):
            point = _between(inner[index], outer, demand)
            prices = transports[index].shortage(*point)
            if prices is None:
                inner[index] = point
                continue
            num_short += 1
            master.add(demand, cut_at(demand, prices, _whole(*point, demand)))
        if _is_over(bounds, inner, outer, arrays) or clock() - started > seconds:
            break
        if num_short:
            outer = master.relax()
    return outer


def _is_over(
    bounds: list[float],
    inner: list[tuple[Floats, Floats]],
    outer: Relaxed,
    arrays: FleetArrays,
) -> bool:
    excess = sum(
        float(arrays.prices[demand.columns] @ np.maximum(counts - outer.counts[demand.columns], 0))
        for demand, (counts, _) in zip(arrays.demands, inner, strict=True)
    )
    if excess <= CLOSED * bounds[-1]:
        return True
    if len(bounds) <= STALLED_ROUNDS:
        return False
    return bounds[-1] - bounds[-1 - STALLED_ROUNDS] <= STALLED * bounds[-1]


def _inside(arrays: FleetArrays, demand: Demand) -> tuple[Floats, Floats]:
    # Every row on the column that serves it cheapest, caps aside: the cuts know none either.
    prices = arrays.prices[demand.columns]
    row_cost = demand.loads / demand.limits * np.maximum(prices, floor_price(arrays))
    cheapest = np.argmin(row_cost, axis=1)
    load = np.zeros(len(prices))
    np.add.at(load, cheapest, demand.loads[np.arange(len(cheapest)), cheapest])
    used = (load > 0).astype(float)
    counts = np.maximum(load / demand.limits, load + demand.keeps_spare)
    return np.maximum(counts, 1.0 + demand.keeps_spare) * used, used


def floor_price(arrays: FleetArrays) -> float:
    """Return a small positive price, to weigh columns that cost nothing."""
    positive = arrays.prices[arrays.prices > 0]
    return 0.1 * float(np.median(positive)) if len(positive) else 1.0


def _between(inner: tuple[Floats, Floats], outer: Relaxed, demand: Demand) -> tuple[Floats, Floats]:
    counts = HALF_WAY * outer.counts[demand.columns] + (1 - HALF_WAY) * inner[0]
    used = HALF_WAY * outer.used[demand.columns] + (1 - HALF_WAY) * inner[1]
    return counts, used


def _whole(counts: Floats, used: Floats, demand: Demand) -> Floats:
    # The whole count below what a used column holds at the point: there the cut shall be tight.
    unused = np.full_like(counts, 1.0 + demand.keeps_spare)
    held = np.divide(counts, used, out=unused, where=used > 1e-6)
    return np.maximum(np.floor(held + 1e-6), 1.0)
