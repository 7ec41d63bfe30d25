"""From whole counts that almost carry everything to a plan: add what is short, drop what is not needed."""

from collections.abc import Callable, Sequence

import numpy as np

from planner.fleet_program.arrays import Demand, FleetArrays, Floats
from planner.fleet_program.cuts import RowPrices, earnings
from planner.fleet_program.limits import CountRow
from planner.fleet_program.relaxation import floor_price
from planner.fleet_program.transport import Transport


class Rounding:
    """Keeps what every repair needs."""

    def __init__(
        self,
        arrays: FleetArrays,
        rows: Sequence[CountRow],
        transports: Sequence[Transport],
        *,
        clock: Callable[[], float],
    ) -> None:
        """Take the problem, its count rows and one transport for each demand."""
        self._arrays, self._transports, self._clock = arrays, transports, clock
        self._weights = np.zeros((len(rows), len(arrays.prices)))
        for number, row in enumerate(rows):
            for o, weight in row.terms:
                self._weights[number, o] = weight
        self._upper = np.array([row.upper for row in rows])
        self._lower = np.array([row.lower for row in rows])

    def repaired(self, counts: Floats, *, deadline_seconds: float) -> Floats | None:
        """Return counts that satisfy everything, near the given ones; None: none were found."""
        counts = counts.copy()
        for demand, transport in zip(self._arrays.demands, self._transports, strict=True):
            while True:
                if self._clock() > deadline_seconds:
                    return None
                own = counts[demand.columns]
                prices = transport.shortage(own, (own > 0).astype(float))
                if prices is None:
                    break
                best = self._best_addition(demand, prices, counts)
                if best is None:
                    return None
                counts[best] += self._step(counts, demand)[best]
        return counts

    def reduced(self, counts: Floats, *, deadline_seconds: float) -> Floats:
        """Return the counts without replicas that nothing needs, the dearest tried first."""
        counts = counts.copy()
        for o in np.argsort(-self._arrays.prices, kind="stable"):
            while counts[o] > 0 and self._clock() < deadline_seconds:
                fewer = counts.copy()
                fewer[o] = self._one_fewer(o, counts)
                if not self._is_plan(fewer, o):
                    break
                counts = fewer
        return counts

    def _step(self, counts: Floats, demand: Demand) -> Floats:
        first = np.maximum(self._arrays.least_used, 1.0 + demand.keeps_spare)
        return np.where(counts == 0, first, 1.0)

    def _best_addition(self, demand: Demand, prices: RowPrices, counts: Floats) -> int | None:
        own = counts[demand.columns]
        step = self._step(counts, demand)
        more = own + step[demand.columns]
        now, then = earnings(
            demand,
            prices,
            (
                demand.capacity(own, (own > 0).astype(float)),
                demand.capacity(more, np.ones_like(more)),
            ),
        )
        price = np.maximum(self._arrays.prices, floor_price(self._arrays) * 1e-3)
        gain = (then - now) / (price * step)[demand.columns]
        gain[(self._room(counts) < step)[demand.columns]] = 0.0
        best = int(np.argmax(gain)) if len(gain) else 0
        if not len(gain) or gain[best] <= 1e-12:
            return None
        return int(demand.columns[best])

    def _room(self, counts: Floats) -> Floats:
        room = self._arrays.upper - counts
        left = self._upper - self._weights @ counts
        for weights, slack in zip(self._weights, left, strict=True):
            taken = (weights > 0) & np.isfinite(slack)
            room[taken] = np.minimum(room[taken], (slack + 1e-9) // weights[taken])
        return room

    def _one_fewer(self, o: int, counts: Floats) -> float:
        fewer = counts[o] - 1
        return float(fewer if fewer >= self._arrays.least_used[o] else 0.0)

    def _is_plan(self, counts: Floats, changed: int) -> bool:
        if counts[changed] < self._arrays.lower[changed]:
            return False
        if np.any(self._weights @ counts < self._lower - 1e-9):
            return False
        for demand, transport in zip(self._arrays.demands, self._transports, strict=True):
            if changed in demand.columns:
                own = counts[demand.columns]
                if transport.shortage(own, (own > 0).astype(float)) is not None:
                    return False
        return True
