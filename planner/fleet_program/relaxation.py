"""Cuts that close the continuous relaxation, found in rounds between an inner and an outer point.

The master's relaxed counts lie outside what carries the demands; a known point lies inside. Each round
asks, for every demand, about the point half-way: where it is short, the cut found cuts off the
outer point too, and deeper than one found there; where it is not, it becomes the inner point.

Source: in-out separation, Ben-Ameur and Neto, Networks 49 (2007), section 3.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from planner.fleet_program.arrays import Demand, FleetArrays, Floats
from planner.fleet_program.counts_master import CountsMaster, Relaxed
from planner.fleet_program.cuts import Cut, RowPrices, cut_at, cut_paying
from planner.fleet_program.limits import CountRow
from planner.fleet_program.price_search import search_prices
from planner.fleet_program.transport import Transport

HALF_WAY = 0.5
CLOSED = 1e-3
"""The relative distance between inner and outer cost at which a relaxation counts as closed."""

STALLED_ROUNDS = 15
"""Rounds over which the distance must fall to `STALLED` of itself."""
STALLED = 0.9


def close_relaxation(
    master: CountsMaster,
    arrays: FleetArrays,
    transports: Sequence[Transport],
    *,
    rows: Sequence[CountRow],
    workers: ThreadPoolExecutor,
    seconds: float,
    clock: Callable[[], float],
) -> Relaxed:
    """Add cuts until inner and outer points meet, they stall or the time is up."""
    started = clock()
    inner = _start(master, arrays, rows)
    distances: list[float] = []
    outer = master.relax()
    while outer.bound_usd_per_hour < float("inf"):
        distances.append(_distance(inner, outer, arrays))
        points = [_between(inner[i], outer, demand) for i, demand in enumerate(arrays.demands)]
        cuts = list(workers.map(cut_off, transports, arrays.demands, points))
        for index, (cut, point) in enumerate(zip(cuts, points, strict=True)):
            if cut is None:
                inner[index] = point
            else:
                master.add(index, cut)
        if _is_over(distances) or clock() - started > seconds:
            break
        if any(cuts):
            outer = master.relax()
    return outer


def cut_off(transport: Transport, demand: Demand, point: tuple[Floats, Floats]) -> Cut | None:
    """Return a cut that a point of counts and used fractions misses; None: it carries the demand."""
    prices = transport.shortage(*point)
    return None if prices is None else cut_at(demand, prices, _whole(*point, demand))


def _start(
    master: CountsMaster, arrays: FleetArrays, rows: Sequence[CountRow]
) -> list[tuple[Floats, Floats]]:
    # Guesses know neither spot limits nor lost markets; those demands start from a plain point.
    guessed = [demand for demand in arrays.demands if demand.is_plain]
    guesses = dict(
        zip(map(id, guessed), search_prices(arrays, rows, guessed), strict=True) if guessed else ()
    )
    inner = []
    for index, demand in enumerate(arrays.demands):
        guess = guesses.get(id(demand))
        if guess is None:
            inner.append(_inside(arrays, demand))
            continue
        inner.append(guess.inner)
        for offered in guess.offered:
            prices = RowPrices(offered.serving)
            master.add(index, cut_paying(demand, prices, offered.paid, offered.profit))
    return inner


def _distance(inner: list[tuple[Floats, Floats]], outer: Relaxed, arrays: FleetArrays) -> float:
    # How much dearer the inner points are, as a part of the bound.
    excess = sum(
        float(arrays.prices[demand.columns] @ np.maximum(counts - outer.counts[demand.columns], 0))
        for demand, (counts, _) in zip(arrays.demands, inner, strict=True)
    )
    return excess / max(outer.bound_usd_per_hour, 1e-12)


def _is_over(distances: list[float]) -> bool:
    if distances[-1] <= CLOSED:
        return True
    if len(distances) <= STALLED_ROUNDS:
        return False
    return min(distances[-STALLED_ROUNDS:]) > STALLED * min(distances[:-STALLED_ROUNDS])


def _inside(arrays: FleetArrays, demand: Demand) -> tuple[Floats, Floats]:
    # Every row on the column that serves it cheapest, caps aside: the cuts know none either.
    prices = arrays.prices[demand.columns]
    row_cost = demand.loads / demand.limits * np.maximum(prices, arrays.floor_price)
    cheapest = np.argmin(row_cost, axis=1)
    load = np.zeros(len(prices))
    np.add.at(load, cheapest, demand.loads[np.arange(len(cheapest)), cheapest])
    used = (load > 0).astype(float)
    counts = np.maximum(load / demand.limits, load + demand.keeps_spare)
    return np.maximum(counts, 1.0 + demand.keeps_spare) * used, used


def _between(inner: tuple[Floats, Floats], outer: Relaxed, demand: Demand) -> tuple[Floats, Floats]:
    counts = HALF_WAY * outer.counts[demand.columns] + (1 - HALF_WAY) * inner[0]
    used = HALF_WAY * outer.used[demand.columns] + (1 - HALF_WAY) * inner[1]
    return counts, used


def _whole(counts: Floats, used: Floats, demand: Demand) -> Floats:
    # The whole count below what a used column holds at the point: there the cut shall be tight.
    unused = np.full_like(counts, 1.0 + demand.keeps_spare)
    held = np.divide(counts, used, out=unused, where=used > 1e-6)
    return np.maximum(np.floor(held + 1e-6), 1.0)
