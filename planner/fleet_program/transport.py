"""Do given counts carry one demand? A transport program, and the prices that prove it where not.

    minimise  sum_r worth[r] * unserved[r]
    sum_o share[r,o] + unserved[r] = 1                       for every row
    sum_r load[r,o] * share[r,o] <= capacity[o]              for every column
    sum_{o spot} share[r,o] <= q                             for every row, where spot is limited
    0 <= share[r,o] <= used[o]

The counts enter by right-hand sides and bounds only, so each solve starts from the last one's basis.
"""

import numpy as np

from planner.fleet_program.arrays import Demand, Floats, Ints
from planner.fleet_program.cuts import RowPrices
from planner.fleet_program.highs import INFINITY, LinearModel, Rows

SERVED = 1e-8
"""A shortage below this part of the whole worth is the solver's noise."""
ROW_SERVED = 1e-6
"""An unserved part of a row up to this is the solver's noise; above it counts, however small its worth."""


class Transport:
    """The transport program of one demand, kept between questions."""

    def __init__(self, demand: Demand, worth: Floats) -> None:
        """Take (R,) positive worths: the prices found will not exceed them."""
        self._demand, self._worth = demand, worth
        self._num_rows, self._num_columns = demand.loads.shape
        column, row = np.nonzero(np.isfinite(demand.loads).T)
        self._column = column
        num_shares = len(row)
        self._shares = np.arange(num_shares, dtype=np.int32)
        self._model = LinearModel(
            costs=np.concatenate([np.zeros(num_shares), worth]),
            lower=np.zeros(num_shares + self._num_rows),
            upper=np.concatenate([np.zeros(num_shares), np.ones(self._num_rows)]),
            rows=_rows(demand, row, column),
            # Each solve differs from the last by a few bounds: presolve would lose the basis.
            options={"presolve": "off", "solver": "simplex"},
        )

    def shortage(self, counts: Floats, used: Floats) -> RowPrices | None:
        """Return prices that prove the shortage at (O,) counts; None: they carry the demand.

        Raises:
            SolverError: If the solver breaks down.
        """
        most = np.minimum(used, 1.0)[self._column]
        self._model.set_column_bounds(self._shares, np.zeros(len(most)), most)
        room = self._demand.capacity(counts, used)
        first = self._num_rows
        for o in range(self._num_columns):
            self._model.set_row_upper(first + o, float(room[o]))
        unserved = self._model.solve()
        most_of_a_row = float(self._model.values()[len(self._shares) :].max())
        if unserved <= SERVED * float(self._worth.sum()) and most_of_a_row <= ROW_SERVED:
            return None
        duals = self._model.row_duals()
        serving = np.maximum(duals[:first], 0.0)
        spot = np.maximum(-duals[first + self._num_columns :], 0.0)
        return RowPrices(serving, spot if len(spot) else None)


def _rows(demand: Demand, row: Ints, column: Ints) -> Rows:
    # Variables: share k of row[k] on column[k], then the unserved part of each row.
    num_rows, num_columns = demand.loads.shape
    shares, each = np.arange(len(row)), np.arange(num_rows)
    entries = [
        (row, shares, np.ones(len(row))),
        (each, len(row) + each, np.ones(num_rows)),
        (num_rows + column, shares, demand.loads[row, column]),
    ]
    lower = [np.ones(num_rows), np.full(num_columns, -INFINITY)]
    upper = [np.ones(num_rows), np.zeros(num_columns)]
    if demand.spot_limit is not None:
        spot = np.nonzero(demand.is_spot[column])[0]
        entries.append((num_rows + num_columns + row[spot], spot, np.ones(len(spot))))
        lower.append(np.full(num_rows, -INFINITY))
        upper.append(np.full(num_rows, demand.spot_limit))
    parts = [np.concatenate([entry[part] for entry in entries]) for part in range(3)]
    return Rows(
        row=parts[0],
        column=parts[1],
        value=parts[2],
        lower=np.concatenate(lower),
        upper=np.concatenate(upper),
    )
