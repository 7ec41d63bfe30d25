"""A quick guess of what serving each row costs, and of the counts: where cutting starts.

With a price on every row served (mu) and on every cap's unit (pi) the problem falls apart by column:
each takes the rows and the count that earn it most. Rows served too little then rise in price, those
served too much fall: steepest ascent of a concave bound, with averaged directions. The average of
the columns' answers, scaled so that every row is served once, is a point inside the relaxation.

Source: Barahona and Anbil, The volume algorithm, Mathematical Programming 87 (2000).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.fleet_program.arrays import Demand, FleetArrays, Floats
from planner.fleet_program.limits import CountRow

ROUNDS = 250
AVERAGED = 0.04
"""Weight of the newest answer in the averages."""
PATIENCE_ROUNDS = 12
"""Rounds without a better bound before the step shrinks and the search returns to the best prices."""
SHRINK = 0.65
FIRST_STEP = 0.05
CAP_STEP = 0.05
"""Step of the caps' prices as a part of the rows'."""
KEPT = 10
"""How many of the best prices are returned."""


@dataclass(frozen=True, slots=True)
class Offered:
    """Prices, and what the columns make of them."""

    serving: Floats
    """(R,) price of serving each row in full."""
    paid: Floats
    """(O,) price of a replica, with what it takes of the caps."""
    profit: Floats
    """(O,) the most that any count earns above what it pays; below 0 where none does."""


@dataclass(frozen=True, slots=True)
class Guess:
    """What the search knows of one demand."""

    offered: tuple[Offered, ...]
    """The best first."""
    inner: tuple[Floats, Floats]
    """(O,) counts and used fractions that carry the demand."""


def search_prices(
    arrays: FleetArrays, rows: Sequence[CountRow], demands: Sequence[Demand]
) -> tuple[Guess, ...]:
    """Return a guess for each demand; the demands must be of different models."""
    capped = [row for row in rows if np.isfinite(row.upper) and row.terms]
    weights = np.zeros((len(capped), len(arrays.prices)))
    for number, row in enumerate(capped):
        for o, weight in row.terms:
            weights[number, o] = weight
    limits = np.array([row.upper for row in capped])
    search = _Search(arrays, demands, weights, limits)
    for _ in range(ROUNDS):
        search.step()
    return search.guesses()


class _Search:
    """Prices, directions and averages."""

    def __init__(
        self, arrays: FleetArrays, demands: Sequence[Demand], weights: Floats, limits: Floats
    ) -> None:
        self._arrays, self._demands = arrays, demands
        self._weights, self._limits = weights, limits
        self._columns = [_Columns(demand, arrays) for demand in demands]
        self._serving = [columns.cheapest for columns in self._columns]
        self._caps = np.zeros(len(limits))
        self._unit = [float(prices.mean()) for prices in self._serving]
        # What one unit of a cap may be worth: the least price of what takes it.
        per_unit = np.where(weights > 0, arrays.prices / np.maximum(weights, 1e-12), np.inf)
        least = per_unit.min(axis=1, initial=np.inf)
        self._cap_unit = np.where(np.isfinite(least), np.maximum(least, 1e-6), 1e-6)
        self._best = (-np.inf, self._serving, self._caps)
        self._step, self._waited = FIRST_STEP, 0
        self._direction: list[Floats] = []
        self._seen: list[tuple[float, list[Offered]]] = []
        self._shares = [np.zeros_like(demand.loads) for demand in demands]

    def step(self) -> None:
        """Ask the columns, remember the answer, move the prices."""
        prices = self._arrays.prices + self._caps @ self._weights
        bound = -float(self._caps @ self._limits)
        counts = np.zeros(len(prices))
        slopes, answers = [], []
        for number, (demand, columns) in enumerate(zip(self._demands, self._columns, strict=True)):
            serving, paid = self._serving[number], prices[demand.columns]
            shares, own, profit = columns.answer(serving, paid)
            bound += float(serving.sum()) - float(np.maximum(profit, 0.0).sum())
            counts[demand.columns] = own
            answers.append(Offered(serving, paid, profit))
            slopes.append(1 - shares.sum(axis=1))
            self._shares[number] += AVERAGED * (shares - self._shares[number])
        slopes.append(self._weights @ counts - self._limits)
        self._seen.append((bound, answers))
        self._remember(bound)
        self._move(slopes)

    def guesses(self) -> tuple[Guess, ...]:
        """Return the best prices seen and the averaged counts."""
        best = sorted(self._seen, key=lambda seen: -seen[0])[:KEPT]
        return tuple(
            Guess(
                tuple(seen[1][number] for seen in best),
                columns.inner(self._shares[number]),
            )
            for number, columns in enumerate(self._columns)
        )

    def _remember(self, bound: float) -> None:
        self._waited += 1
        if bound > self._best[0]:
            self._best, self._waited = (bound, self._serving, self._caps), 0
        if self._waited >= PATIENCE_ROUNDS:
            self._step, self._waited = self._step * SHRINK, 0
            _, self._serving, self._caps = self._best

    def _move(self, slopes: list[Floats]) -> None:
        if self._direction:
            pairs = zip(slopes, self._direction, strict=True)
            slopes = [0.35 * slope + 0.65 * before for slope, before in pairs]
        self._direction = slopes
        length = self._step * abs(self._best[0])
        *rows, caps = slopes
        scale = sum(
            float((unit * slope) @ (unit * slope))
            for unit, slope in zip(self._unit, rows, strict=True)
        )
        self._serving = [
            np.maximum(prices + length / (scale + 1e-12) * unit**2 * slope, 0.0)
            for prices, unit, slope in zip(self._serving, self._unit, rows, strict=True)
        ]
        open_caps = np.where((self._caps > 0) | (caps > 0), caps, 0.0)
        steepness = float(((self._cap_unit * open_caps) ** 2).sum())
        rise = CAP_STEP * length / (steepness + 1e-12) * self._cap_unit**2 * open_caps
        self._caps = np.maximum(self._caps + rise, 0.0)


class _Columns:
    """The columns of one demand as buyers of load."""

    def __init__(self, demand: Demand, arrays: FleetArrays) -> None:
        self._demand = demand
        self._serves = np.isfinite(demand.loads)
        self._loads = np.where(self._serves, demand.loads, 1e12)
        self._upper = arrays.upper[demand.columns]
        self._least = np.maximum(arrays.least_used[demand.columns], 1.0 + demand.keeps_spare)
        # The fewest replicas are full, or the spare replica stops being what limits the load.
        self._kinks = [demand.capacity(self._least, np.ones_like(self._least))]
        if demand.keeps_spare:
            self._kinks.append(demand.limits / np.maximum(1 - demand.limits, 1e-9))
        prices = np.maximum(arrays.prices[demand.columns], arrays.floor_price)
        cost = demand.loads / demand.limits * prices
        self._servers = cost.argmin(axis=1)
        self.cheapest = np.maximum(cost.min(axis=1), 1e-9)

    def answer(self, serving: Floats, paid: Floats) -> tuple[Floats, Floats, Floats]:
        """Return (R, O) shares, (O,) counts and (O,) profits at (R,) and (O,) prices.

        What a load earns is concave, what it pays convex: the profit is highest where whole rows end
        or where the replicas needed change their slope.
        """
        each = np.arange(self._loads.shape[1])
        worth = np.where(self._serves, serving[:, None], 0.0)
        order = np.argsort(-worth / self._loads, axis=0)
        loads = np.take_along_axis(self._loads, order, axis=0)
        worth = np.take_along_axis(worth, order, axis=0)
        load = np.cumsum(loads, axis=0)
        profits = np.cumsum(worth, axis=0) - paid * self._needed(load)
        most = np.argmax(profits, axis=0)
        profit, room = profits[most, each], load[most, each]
        for kink in self._kinks:
            earned = (self._taken(loads, load, kink) * worth).sum(axis=0)
            other = earned - paid * self._needed(kink)
            room, profit = np.where(other > profit, kink, room), np.maximum(other, profit)
        buys = (profit > 0) & (self._upper > 0)
        shares = np.zeros_like(loads)
        np.put_along_axis(shares, order, self._taken(loads, load, room) * buys, axis=0)
        shares *= self._serves
        return shares, np.minimum(self._needed(room), self._upper) * buys, profit

    @staticmethod
    def _taken(loads: Floats, load: Floats, room: Floats) -> Floats:
        # (R, O) fraction of each row, in order of worth, that fits the room.
        return np.asarray(np.clip((room - (load - loads)) / loads, 0.0, 1.0))

    def inner(self, shares: Floats) -> tuple[Floats, Floats]:
        """Return counts and used fractions that carry the demand by shares like the given ones."""
        total = shares.sum(axis=1)
        missing = total < 0.1
        shares = shares / np.maximum(total, 0.1)[:, None]
        shares[missing] = 0.0
        shares[missing, self._servers[missing]] = 1.0
        used = shares.max(axis=0)
        load = (np.where(shares > 0, self._loads, 0.0) * shares).sum(axis=0)
        spare = used if self._demand.keeps_spare else 0.0
        counts = np.maximum(load / self._demand.limits, load + spare)
        return np.maximum(counts, self._least * used), used

    def _needed(self, load: Floats) -> Floats:
        needed = np.maximum(load / self._demand.limits, load + self._demand.keeps_spare)
        return np.maximum(needed, self._least)
