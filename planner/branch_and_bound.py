"""Branch and bound over few whole variables, each node one warm-started linear program of HiGHS.

A fleet of one model and four GPU types has four whole counts and hundreds of shares. A node differs
from the one before by a few bounds and takes some dual simplex steps, a fifth of a millisecond; a few
dozen nodes prove the optimum. HiGHS's own search takes longer for its root node's cuts alone. With many
whole variables it is the other way round.

The open node of the lowest bound comes first, so the first one whose values are whole is optimal.
It is branched where the fraction weighs most in the objective. Whether another point is as cheap is
then known in a few programs more, which spares the caller a search among equals.

Source: Land and Doig, Econometrica 28 (1960), 497-520.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import highspy
import numpy as np

FEW_WHOLE_VARIABLES = 8
"""Up to so many this search is worth a try."""

MOST_PROGRAMS = 400
"""Linear programs after which the search gives up: then cuts are worth their time."""

MOST_OF_THE_TIME = 0.25
"""Part of the model's time limit after which it gives up: HiGHS's own search needs the rest."""

LEAST_SECONDS = 0.01
"""Left to HiGHS in any case."""

WHOLE = 1e-7
"""A value this close to a whole number is one: HiGHS's tolerance of a bound."""

CLEARLY_DEARER = 1e-6
"""Relative difference of objectives that no tolerance of a linear program explains."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """What is in the model after a search that found its end."""

    is_unique: bool
    """Whether other values of the whole variables are known to be dearer."""


def minimise_whole(model: highspy.Highs, whole: Sequence[int]) -> Optimum | None:
    """Minimise with some variables whole; the optimum is then in the model.

    Where none was found, the model is as it was but for its time limit, less what was spent: the
    programs or the time did not do, there is no optimum, or HiGHS could not solve a linear program.

    Args:
        model: A loaded minimisation, not yet run.
        whole: Indices of the variables that must be whole.
    """
    search = _Search(model, whole)
    try:
        optimum = search.optimum()
    except _Unsolved:
        optimum = None
    if optimum is None:
        search.restore()
    return optimum


class _Unsolved(Exception):
    """A linear program ended neither solved nor infeasible: nothing is proven without it."""


@dataclass(order=True, slots=True)
class _Node:
    bound: float
    number: int
    """In the order of creation: decides between equal bounds."""
    lower: list[float] = field(compare=False)
    upper: list[float] = field(compare=False)
    values: list[float] = field(compare=False)
    """Of the whole variables, as all of these."""


class _Search:
    def __init__(self, model: highspy.Highs, whole: Sequence[int]) -> None:
        program = model.getLp()
        self._model, self._whole = model, np.array(whole, dtype=np.int32)
        self._lower = [program.col_lower_[j] for j in whole]
        self._upper = [program.col_upper_[j] for j in whole]
        self._weights = [abs(program.col_cost_[j]) for j in whole]
        self._presolve = model.getOptionValue("presolve")[1]
        self._seconds = float(model.getOptionValue("time_limit")[1])
        self._programs = 0

    def optimum(self) -> Optimum | None:
        """Search; return what the model now holds."""
        self._set_kind(highspy.HighsVarType.kContinuous)
        # Presolve would lose the basis from which the next node starts.
        self._model.setOptionValue("presolve", "off")
        open_nodes: list[_Node] = []
        self._open(open_nodes, self._lower, self._upper)
        while open_nodes and self._may_go_on():
            node = heapq.heappop(open_nodes)
            branched = self._heaviest_fraction(node.values)
            if branched is None:
                rounded = [float(round(value)) for value in node.values]
                is_unique = self._is_unique(rounded, node, open_nodes)
                return Optimum(is_unique) if self._solve(rounded, rounded) else None
            below, above = list(node.upper), list(node.lower)
            below[branched] = math.floor(node.values[branched])
            above[branched] = below[branched] + 1.0
            self._open(open_nodes, node.lower, below)
            self._open(open_nodes, above, node.upper)
        return None

    def _is_unique(self, point: list[float], node: _Node, open_nodes: list[_Node]) -> bool:
        """Whether all that is open, and the rest of the point's own node, is clearly dearer."""
        others = open_nodes[:1]
        lower, upper = list(node.lower), list(node.upper)
        for i, value in enumerate(point):
            # The rest of the node: at the point in the first variables, beside it in the next one.
            if value > lower[i]:
                self._open(others, lower, [*upper[:i], value - 1.0, *upper[i + 1 :]])
            if value < upper[i]:
                self._open(others, [*lower[:i], value + 1.0, *lower[i + 1 :]], upper)
            lower[i] = upper[i] = value
        dearer = node.bound + CLEARLY_DEARER * abs(node.bound)
        return all(other.bound > dearer for other in others)

    def restore(self) -> None:
        """Make the model what it was before the search."""
        self._set_kind(highspy.HighsVarType.kInteger)
        self._set_bounds(self._lower, self._upper)
        self._model.setOptionValue("presolve", self._presolve)
        left_seconds = self._seconds - self._model.getRunTime()
        self._model.setOptionValue("time_limit", max(left_seconds, LEAST_SECONDS))
        self._model.clearSolver()

    def _may_go_on(self) -> bool:
        spent_seconds = self._model.getRunTime()
        return self._programs < MOST_PROGRAMS and spent_seconds < MOST_OF_THE_TIME * self._seconds

    def _open(self, nodes: list[_Node], lower: list[float], upper: list[float]) -> None:
        if self._solve(lower, upper):
            found = self._model.getSolution().col_value
            values = [found[j] for j in self._whole]
            bound = self._model.getInfo().objective_function_value
            heapq.heappush(nodes, _Node(bound, self._programs, lower, upper, values))

    def _solve(self, lower: list[float], upper: list[float]) -> bool:
        """Solve between these bounds; return whether there is a solution."""
        self._programs += 1
        self._set_bounds(lower, upper)
        self._model.run()
        status = self._model.getModelStatus()
        if status not in (highspy.HighsModelStatus.kOptimal, highspy.HighsModelStatus.kInfeasible):
            raise _Unsolved
        return bool(status == highspy.HighsModelStatus.kOptimal)

    def _heaviest_fraction(self, values: list[float]) -> int | None:
        # A variable that the objective leaves out may have to be branched too.
        fractions = [abs(value - round(value)) for value in values]
        if max(fractions) <= WHOLE:
            return None
        return max(
            (i for i, fraction in enumerate(fractions) if fraction > WHOLE),
            key=lambda i: fractions[i] * self._weights[i],
        )

    def _set_bounds(self, lower: list[float], upper: list[float]) -> None:
        self._model.changeColsBounds(
            len(self._whole), self._whole, np.array(lower), np.array(upper)
        )

    def _set_kind(self, kind: highspy.HighsVarType) -> None:
        kinds = np.full(len(self._whole), kind)
        self._model.changeColsIntegrality(len(self._whole), self._whole, kinds)
