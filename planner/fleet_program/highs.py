"""HiGHS with a model that stays loaded: bounds change and rows arrive between solves."""

from dataclasses import dataclass
from typing import Any

import highspy
import numpy as np
from numpy.typing import NDArray

from planner.errors import SolverError
from planner.fleet_program.arrays import Floats

INFINITY: float = highspy.kHighsInf

Indices = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rows:
    """A sparse matrix by entries, with bounds of its rows."""

    row: Indices
    column: Indices
    value: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True, slots=True)
class Solved:
    """What a mixed-integer search came to."""

    values: Floats | None
    """By column; None: no feasible point was found."""
    objective: float
    bound: float
    is_infeasible: bool


class LinearModel:
    """One minimisation inside HiGHS."""

    def __init__(
        self,
        *,
        costs: Floats,
        lower: Floats,
        upper: Floats,
        rows: Rows,
        options: dict[str, Any],
    ) -> None:
        """Load the model; `options` are HiGHS's own."""
        self._highs = highspy.Highs()  # type: ignore[no-untyped-call]
        for name, value in {"output_flag": False, "threads": 1, **options}.items():
            self._highs.setOptionValue(name, value)
        order = np.lexsort((rows.column, rows.row))
        starts = np.searchsorted(rows.row[order], np.arange(len(rows.lower) + 1))
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = len(costs), len(rows.lower)
        program.col_cost_, program.col_lower_, program.col_upper_ = costs, lower, upper
        program.row_lower_, program.row_upper_ = rows.lower, rows.upper
        matrix = program.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_ = starts.astype(np.int32)
        matrix.index_ = rows.column[order].astype(np.int32)
        matrix.value_ = rows.value[order].astype(float)
        if self._highs.passModel(program) == highspy.HighsStatus.kError:
            raise SolverError("HiGHS refused a model; check the loads for extreme numbers")

    def set_column_bounds(self, columns: Indices, lower: Floats, upper: Floats) -> None:
        """Replace the bounds of some columns."""
        self._highs.changeColsBounds(len(columns), columns, lower, upper)

    def set_row_upper(self, row: int, upper: float) -> None:
        """Replace the bounds of a row by an upper one."""
        self._highs.changeRowBounds(row, -INFINITY, upper)

    def add_row(self, lower: float, columns: Indices, values: Floats) -> None:
        """Add a row with a lower bound."""
        self._highs.addRow(lower, INFINITY, len(columns), columns, values)

    def set_integer(self, columns: Indices) -> None:
        """Demand whole numbers of some columns."""
        whole = np.full(len(columns), highspy.HighsVarType.kInteger)
        self._highs.changeColsIntegrality(len(columns), columns, whole)

    def solve(self) -> float:
        """Solve as a linear program and return the objective; infinite: infeasible.

        Raises:
            SolverError: If HiGHS ends in any other way.
        """
        self._highs.run()
        status = self._highs.getModelStatus()
        if status == highspy.HighsModelStatus.kInfeasible:
            return float("inf")
        if status != highspy.HighsModelStatus.kOptimal:
            raise SolverError(f"HiGHS ended with {self._highs.modelStatusToString(status)!r}")
        return float(self._highs.getInfo().objective_function_value)

    def values(self) -> Floats:
        """Return the solved values by column."""
        return np.array(self._highs.getSolution().col_value)

    def row_duals(self) -> Floats:
        """Return the solved duals by row."""
        return np.array(self._highs.getSolution().row_dual)

    def search(
        self, *, time_limit_seconds: float, gap_fraction: float, start: Floats | None
    ) -> Solved:
        """Search whole-numbered solutions, from a feasible `start` if one is known.

        Raises:
            SolverError: If HiGHS breaks down.
        """
        highs = self._highs
        highs.setOptionValue("time_limit", max(time_limit_seconds, 0.01))
        highs.setOptionValue("mip_rel_gap", gap_fraction)
        highs.setOptionValue("mip_abs_gap", 0.0)
        if start is not None:
            solution = highspy.HighsSolution()
            solution.col_value = list(start)
            highs.setSolution(solution)
        highs.run()
        status, info = highs.getModelStatus(), highs.getInfo()
        if status == highspy.HighsModelStatus.kInfeasible:
            return Solved(None, float("inf"), float("inf"), True)
        if status not in (
            highspy.HighsModelStatus.kOptimal,
            highspy.HighsModelStatus.kTimeLimit,
        ):
            raise SolverError(f"HiGHS ended with {highs.modelStatusToString(status)!r}")
        # 2 is HiGHS's word for "the primal solution is feasible".
        found = info.primal_solution_status == 2
        return Solved(
            self.values() if found else None,
            float(info.objective_function_value) if found else float("inf"),
            float(info.mip_dual_bound),
            False,
        )
