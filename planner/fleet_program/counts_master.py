"""The fleet problem in the replica counts alone: bounds, count rows, and the cuts found so far.

    minimise  sum_o price[o] * count[o]
    least_used[o] * used[o] <= count[o] (<= high[o] * used[o] where a used column costs something)
    caps, budget, minima (`limits.count_rows`); the cuts (`cuts`)

Its optimum never exceeds the whole problem's: every plan satisfies every row. So its bound, at any
time and however many cuts it holds, is a bound of the whole problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from planner.fleet_program.arrays import Demand, FleetArrays, Floats
from planner.fleet_program.cuts import Cut
from planner.fleet_program.highs import INFINITY, LinearModel, Rows, Solved
from planner.fleet_program.limits import CountRow

NEGLIGIBLE = 1e-9
"""A cut's coefficient below this part of what is needed is dropped, and what it could add is given."""


@dataclass(frozen=True, slots=True)
class Relaxed:
    """A solution of the continuous relaxation."""

    bound_usd_per_hour: float
    """Infinite: infeasible."""
    counts: Floats
    used: Floats


class CountsMaster:
    """The master program; grows by cuts."""

    def __init__(self, arrays: FleetArrays, rows: Sequence[CountRow]) -> None:
        """Build it without cuts."""
        self._arrays = arrays
        self._size = size = len(arrays.prices)
        self._model = LinearModel(
            costs=np.concatenate([arrays.prices, np.zeros(size)]),
            lower=np.concatenate([arrays.lower, np.zeros(size)]),
            upper=np.concatenate([arrays.upper, np.minimum(arrays.upper, 1.0)]),
            rows=_rows(arrays, rows),
            options={},
        )

    def add(self, demand: Demand, cut: Cut) -> None:
        """Add a cut over the demand's columns; one that needs nothing says nothing."""
        if cut.needed <= 0:
            return
        coefficients = np.concatenate([cut.each, cut.at_once]) / cut.needed
        most = np.concatenate([self._arrays.upper[demand.columns], np.ones(len(demand.columns))])
        columns = np.concatenate([demand.columns, self._size + demand.columns]).astype(np.int32)
        small = np.abs(coefficients) < NEGLIGIBLE
        given = float((np.abs(coefficients) * most)[small].sum()) + NEGLIGIBLE
        self._model.add_row(1.0 - given, columns[~small], coefficients[~small])

    def relax(self) -> Relaxed:
        """Solve the continuous relaxation."""
        bound = self._model.solve()
        if bound == float("inf"):
            return Relaxed(bound, np.zeros(0), np.zeros(0))
        values = np.maximum(self._model.values(), 0.0)
        counts, used = values[: self._size], values[self._size :]
        if not self._arrays.counts_used:
            used = np.minimum(counts, 1.0)
        return Relaxed(bound, counts, used)

    def demand_whole_counts(self) -> None:
        """Make the counts whole from now on."""
        size = 2 * self._size if self._arrays.counts_used else self._size
        self._model.set_integer(np.arange(size, dtype=np.int32))

    def search(
        self, *, time_limit_seconds: float, gap_fraction: float, start: Floats | None
    ) -> Solved:
        """Search whole counts, (N,); `start` are counts that satisfy everything."""
        if start is not None:
            start = np.concatenate([start, (start > 0).astype(float)])
        found = self._model.search(
            time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction, start=start
        )
        if found.values is None:
            return found
        counts = np.round(found.values[: self._size])
        return Solved(counts, found.objective, found.bound, False)


def _rows(arrays: FleetArrays, rows: Sequence[CountRow]) -> Rows:
    size = len(arrays.prices)
    each = np.arange(size)
    row, column = [each, each], [each, size + each]
    value = [np.ones(size), -arrays.least_used]
    lower, upper = [np.zeros(size)], [np.full(size, INFINITY)]
    if arrays.counts_used:
        row += [size + each, size + each]
        column += [each, size + each]
        value += [np.ones(size), -arrays.upper]
        lower.append(np.full(size, -INFINITY))
        upper.append(np.zeros(size))
    first = sum(len(part) for part in lower)
    for number, limit in enumerate(rows):
        row.append(np.full(len(limit.terms), first + number))
        column.append(np.array([o for o, _ in limit.terms], dtype=np.int64))
        value.append(np.array([weight for _, weight in limit.terms]))
    lower.append(np.array([max(limit.lower, -INFINITY) for limit in rows]))
    upper.append(np.array([min(limit.upper, INFINITY) for limit in rows]))
    return Rows(
        row=np.concatenate(row),
        column=np.concatenate(column),
        value=np.concatenate(value),
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
    )
