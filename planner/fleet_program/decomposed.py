"""Large fleet problems: whole counts in a small master, shares in one transport program a model.

    1. close the relaxation of the counts by cuts (`relaxation`), and round it to first plans
    2. search whole counts in the master; its bound is a bound of the whole problem
    3. where the counts found do not carry a demand, add the cut that says so
    4. repair the counts into a plan and drop what it does not need; the cheapest plan so far is kept
    5. again from 2 until the gap is small enough or the time is up

The master has two columns for each of the problem's, whatever the number of rows: a search takes
a second where the whole program's relaxation alone takes a minute.

Source: Benders, Numerische Mathematik 4 (1962), with the cuts of `cuts`.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from planner.errors import SolverError
from planner.fleet_program.answer import PROVEN_GAP_FRACTION, CountsFound, gap_fraction
from planner.fleet_program.arrays import Demand, FleetArrays, Floats, arrays_of
from planner.fleet_program.counts_master import CountsMaster
from planner.fleet_program.cuts import cut_at
from planner.fleet_program.limits import cost_usd_per_hour, count_bounds, count_rows
from planner.fleet_program.problem import FleetProblem
from planner.fleet_program.relaxation import close_relaxation
from planner.fleet_program.rounding import Rounding
from planner.fleet_program.transport import Transport

SOLVER = "HiGHS, decomposed"

RELAXATION_PART = 0.5
"""Largest part of the time spent on the continuous relaxation."""

SEARCH_PART = 0.2
"""Largest part of the time spent on one search of the master."""

ROUNDED_UP_PARTS = (0.3, 0.5, 0.7)
"""What is added to the relaxed counts before their fractions are cut off, one plan for each."""

ROUND_GAP_PART = 0.25
"""A master search stops at this part of the gap asked."""


def cheapest_counts(
    problem: FleetProblem,
    *,
    time_limit_seconds: float,
    gap_fraction: float,
    clock: Callable[[], float],
) -> CountsFound:
    """Return counts within the gap, or the best found in time, with a bound of the whole problem.

    Args:
        problem: The numbers; every row can be served by some column.
        time_limit_seconds: For everything.
        gap_fraction: Relative gap at which the search stops.
        clock: Seconds from any start.

    Raises:
        SolverError: If HiGHS breaks down, or a bound and a plan contradict each other.
    """
    deadline = clock() + time_limit_seconds
    if count_bounds(problem).is_empty:
        return CountsFound("infeasible", solver=SOLVER)
    arrays = arrays_of(problem)
    if any(demand.strands_a_row for demand in arrays.demands):
        return CountsFound("infeasible", solver=SOLVER)
    # HiGHS releases the interpreter's lock: the models' transports run side by side.
    with ThreadPoolExecutor(os.cpu_count() or 1) as workers:
        search = _Search(problem, arrays, deadline, clock, workers)
        if not search.close(time_limit_seconds * RELAXATION_PART, gap_fraction):
            return CountsFound("infeasible", solver=SOLVER)
        while not search.is_over(gap_fraction):
            if not search.round(time_limit_seconds * SEARCH_PART, gap_fraction):
                return CountsFound("infeasible", solver=SOLVER)
        return search.found()


class _Search:
    """The state of the rounds: the master, the best plan and the bound."""

    def __init__(
        self,
        problem: FleetProblem,
        arrays: FleetArrays,
        deadline_seconds: float,
        clock: Callable[[], float],
        workers: ThreadPoolExecutor,
    ) -> None:
        self._problem, self._arrays, self._clock = problem, arrays, clock
        self._workers = workers
        self._deadline = deadline_seconds
        self._rows = rows = count_rows(problem)
        self._transports = [Transport(d, _worth(arrays, d)) for d in arrays.demands]
        self._master = CountsMaster(arrays, rows)
        self._rounding = Rounding(
            arrays,
            rows,
            self._transports,
            pools=self._master.pools,
            learn=self._master.add,
            clock=clock,
        )
        self._best: Floats | None = None
        self._cost = float("inf")
        self._bound = 0.0

    def close(self, seconds: float, gap: float) -> bool:
        """Close the relaxation and round it; return False if it has no solution.

        Raises:
            SolverError: If a bound lies above the cost of a known plan.
        """
        relaxed = close_relaxation(
            self._master,
            self._arrays,
            self._transports,
            rows=self._rows,
            workers=self._workers,
            seconds=seconds,
            clock=self._clock,
        )
        for part in ROUNDED_UP_PARTS:
            self._raise_bound(relaxed.bound_usd_per_hour)
            if self._bound == float("inf"):
                return False
            # Repairing teaches cuts: the next relaxation knows them.
            self._keep(self._rounding.rounded(relaxed.counts, part=part))
            if self.is_over(gap):
                return True
            relaxed = self._master.relax()
        self._master.demand_whole_counts()
        return True

    def is_over(self, gap: float) -> bool:
        """Tell whether the gap is small enough or the time is up."""
        reached = self._best is not None and gap_fraction(self._cost, self._bound) <= max(
            gap, ROUNDING_GAP
        )
        return reached or self._clock() >= self._deadline

    def round(self, search_seconds: float, gap: float) -> bool:
        """Search, cut and repair once; return False if no plan exists.

        Raises:
            SolverError: If a bound lies above the cost of a known plan.
        """
        found = self._master.search(
            time_limit_seconds=min(search_seconds, self._deadline - self._clock()),
            gap_fraction=gap * ROUND_GAP_PART,
            start=self._best,
        )
        self._raise_bound(found.bound)
        if found.is_infeasible:
            return False
        if found.values is not None:
            self._cut(found.values)
            self._keep(found.values)
        return True

    def found(self) -> CountsFound:
        """Return the best plan with its certificate."""
        if self._best is None:
            return CountsFound("time_limit", bound_usd_per_hour=self._bound, solver=SOLVER)
        counts = tuple(int(count) for count in self._best)
        bound = min(self._bound, self._cost)
        proven = gap_fraction(self._cost, bound) <= PROVEN_GAP_FRACTION
        return CountsFound("optimal" if proven else "feasible", counts, self._cost, bound, SOLVER)

    def _raise_bound(self, bound: float) -> None:
        self._bound = max(self._bound, bound)
        self._refuse_contradiction()

    def _refuse_contradiction(self) -> None:
        # A plan below a bound, or beside a proof that there is none: one of the two is wrong.
        noise = PROVEN_GAP_FRACTION * max(self._cost, self._arrays.floor_price)
        if self._best is not None and self._bound > self._cost + noise:
            raise SolverError(
                f"a plan costs {self._cost:g} USD/h although none was to cost less than "
                f"{self._bound:g}; report this"
            )

    def _cut(self, counts: Floats) -> None:
        demands = self._arrays.demands
        own = [counts[demand.columns] for demand in demands]
        short = self._workers.map(Transport.shortage, self._transports, own, map(np.sign, own))
        for index, prices in enumerate(short):
            if prices is not None:
                for touching in (own[index], own[index] - 1):
                    cut = cut_at(demands[index], prices, np.maximum(touching, 1.0))
                    self._master.add(index, cut)

    def _keep(self, counts: Floats) -> None:
        repaired = self._rounding.repaired(counts, deadline_seconds=self._deadline)
        if repaired is None:
            return
        plan = self._rounding.reduced(repaired, deadline_seconds=self._deadline)
        cost = cost_usd_per_hour(self._problem, [int(count) for count in plan])
        fewer = self._best is not None and plan.sum() < self._best.sum()
        if cost < self._cost * (1 - 1e-12) or (cost <= self._cost and fewer):
            self._best, self._cost = plan, cost
            self._refuse_contradiction()


ROUNDING_GAP = 1e-9
"""A gap that only rounding leaves."""

LEAST_WORTH = 1e-3
"""Of a row, as a part of the mean: a cut for a cheaper one would drown in the solver's noise."""


def _worth(arrays: FleetArrays, demand: Demand) -> Floats:
    # A few times the least cost of each row: prices of a shortage that do not exceed it are sharp.
    prices = np.maximum(arrays.prices[demand.columns], arrays.floor_price)
    worth = 3.0 * np.min(demand.loads / demand.limits * prices, axis=1)
    return np.asarray(np.maximum(worth, LEAST_WORTH * worth.mean()))
