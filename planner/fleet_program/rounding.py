"""From whole counts that almost carry everything to a plan: add what is short, drop what is not needed."""

from collections.abc import Callable, Sequence

import numpy as np

from planner.fleet_program.arrays import Demand, FleetArrays, Floats
from planner.fleet_program.cuts import Cut, CutPool, cut_at
from planner.fleet_program.limits import CountRow
from planner.fleet_program.transport import Transport

NO_GAIN = 1e-12

ROW_NOISE = 1e-9
"""Rounding of a sum of counts times prices."""


class Rounding:
    """Keeps what every repair needs."""

    def __init__(
        self,
        arrays: FleetArrays,
        rows: Sequence[CountRow],
        transports: Sequence[Transport],
        *,
        pools: Sequence[CutPool],
        learn: Callable[[int, Cut], None],
        clock: Callable[[], float],
    ) -> None:
        """Take the problem, its count rows, a transport and a pool for each demand, and who gets new cuts."""
        self._pools, self._learn = pools, learn
        self._arrays, self._transports, self._clock = arrays, transports, clock
        self._weights = np.zeros((len(rows), len(arrays.prices)))
        for number, row in enumerate(rows):
            for o, weight in row.terms:
                self._weights[number, o] = weight
        self._upper = np.array([row.upper for row in rows])
        self._lower = np.array([row.lower for row in rows])

    def rounded(self, relaxed: Floats, *, part: float) -> Floats:
        """Return whole counts: fractions from 1 - part rise, the largest first, within the caps."""
        counts = np.floor(relaxed + 1e-6)
        fractions = relaxed - counts
        for o in np.argsort(-fractions, kind="stable"):
            if fractions[o] >= 1 - part and self._room(counts)[o] >= 1:
                counts[o] += 1
        too_few = (counts < self._arrays.least_used) & (counts > self._arrays.lower)
        return np.where(too_few, self._arrays.lower, counts)

    def repaired(self, counts: Floats, *, deadline_seconds: float) -> Floats | None:
        """Return counts that satisfy everything, near the given ones; None: none were found.

        Every shortage met on the way becomes a cut: the master learns where plans begin.
        """
        counts = counts.copy()
        for index, demand in enumerate(self._arrays.demands):
            while (short := self._shortage(index, counts)) is not None:
                if self._clock() > deadline_seconds:
                    return None
                best = self._best_addition(demand, short, counts)
                if best is None:
                    return None
                counts[best] += self._step(counts, demand)[best]
        return counts if self._keeps_count_rules(counts) else None

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

    def _shortage(self, index: int, counts: Floats) -> Cut | None:
        # A known cut that the counts miss, else a new one; what is missing stands in `needed`.
        demand = self._arrays.demands[index]
        own = counts[demand.columns]
        known = self._pools[index].most_violated(own)
        if known is not None:
            return known
        prices = self._transports[index].shortage(own, (own > 0).astype(float))
        if prices is None:
            return None
        cut = cut_at(demand, prices, np.maximum(own, 1.0))
        self._learn(index, cut)
        return self._pools[index].most_violated(own)

    def _best_addition(self, demand: Demand, short: Cut, counts: Floats) -> int | None:
        own, step = counts[demand.columns], self._step(counts, demand)
        more = step[demand.columns]
        price = np.maximum(self._arrays.prices, self._arrays.floor_price * 1e-3)
        gain = short.each * more + np.where(own == 0, short.at_once, 0.0)
        gain = np.minimum(gain, short.needed) / (price[demand.columns] * more)
        gain[(self._room(counts) < step)[demand.columns]] = 0.0
        best = int(np.argmax(gain))
        return int(demand.columns[best]) if gain[best] > NO_GAIN else None

    def _room(self, counts: Floats) -> Floats:
        room = self._arrays.upper - counts
        left = self._upper - self._weights @ counts
        for weights, slack in zip(self._weights, left, strict=True):
            taken = (weights > 0) & np.isfinite(slack)
            room[taken] = np.minimum(room[taken], (slack + ROW_NOISE) // weights[taken])
        return room

    def _one_fewer(self, o: int, counts: Floats) -> float:
        fewer = counts[o] - 1
        return float(fewer if fewer >= self._arrays.least_used[o] else 0.0)

    def _keeps_count_rules(self, counts: Floats) -> bool:
        arrays, total = self._arrays, self._weights @ counts
        in_rows = np.all(total >= self._lower - ROW_NOISE) and np.all(
            total <= self._upper + ROW_NOISE
        )
        in_bounds = np.all(counts >= arrays.lower) and np.all(counts <= arrays.upper)
        enough = np.all((counts == 0) | (counts >= arrays.least_used))
        return bool(in_rows and in_bounds and enough)

    def _is_plan(self, counts: Floats, changed: int) -> bool:
        if not self._keeps_count_rules(counts):
            return False
        return not any(
            changed in demand.columns and self._shortage(index, counts) is not None
            for index, demand in enumerate(self._arrays.demands)
        )
