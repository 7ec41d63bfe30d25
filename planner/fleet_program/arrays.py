"""A fleet problem as arrays, for the decomposition.

Legend of shapes: R rows of one model, O columns of one model, N columns of the problem.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.fleet_program.limits import Scenario, count_bounds, scenarios
from planner.fleet_program.problem import FleetProblem

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Demand:
    """What one model must be served in one scenario: the subproblem that counts must satisfy."""

    columns: Ints
    """(O,) indices of the model's columns that are there and can serve something."""
    loads: Floats
    """(R, O) replicas at full load; infinite: cannot serve."""
    limits: Floats
    """(O,) highest utilisation."""
    is_spot: Flags
    """(O,)"""
    spot_limit: float | None
    keeps_spare: bool
    """Whether the load must fit one replica less."""

    @property
    def strands_a_row(self) -> bool:
        """Tell whether nothing that is there serves some row."""
        return not bool(np.isfinite(self.loads).any(axis=1).all())

    def capacity(self, counts: Floats, used: Floats) -> Floats:
        """Return the (O,) loads that (O,) counts carry; `used` is 1 where counts are above 0."""
        within = self.limits * counts
        return np.minimum(within, np.maximum(counts - used, 0.0)) if self.keeps_spare else within


@dataclass(frozen=True, slots=True)
class FleetArrays:
    """The problem as the decomposition sees it."""

    demands: tuple[Demand, ...]
    """By model and scenario."""
    prices: Floats
    """(N,) USD an hour"""
    lower: Floats
    upper: Floats
    """(N,) bounds of the counts"""
    counts_used: bool
    """Whether `used` is a decision of its own, because a used column costs capacity or a minimum."""
    least_used: Floats
    """(N,) fewest replicas of a column that has any, at least 1"""


def arrays_of(problem: FleetProblem) -> FleetArrays:
    """Return the arrays of a problem whose bounds are not empty."""
    bounds, rules = count_bounds(problem), problem.rules
    return FleetArrays(
        demands=tuple(
            _demand(problem, model, scenario)
            for scenario in scenarios(problem)
            for model in range(len(problem.models))
            if problem.rows_of(model)
        ),
        prices=np.array([column.price_usd_per_hour for column in problem.columns]),
        lower=np.array(bounds.lower, dtype=float),
        upper=np.array(bounds.upper, dtype=float),
        counts_used=rules.survive_one_replica or rules.min_replicas_used > 1,
        least_used=np.array(bounds.least_used, dtype=float),
    )


def _demand(problem: FleetProblem, model: int, scenario: Scenario) -> Demand:
    columns = [
        o
        for o in problem.columns_of(model)
        if scenario.has(problem.columns[o]) and any(problem.columns[o].loads)
    ]
    num_rows = len(problem.rows_of(model))
    table = [
        [np.inf if load is None else load for load in problem.columns[o].loads] for o in columns
    ]
    return Demand(
        columns=np.array(columns, dtype=np.int64),
        loads=np.array(table, dtype=float).reshape(len(columns), num_rows).T.copy(),
        limits=np.array([scenario.limit_fraction(problem.columns[o]) for o in columns]),
        is_spot=np.array([problem.columns[o].is_spot for o in columns], dtype=bool),
        spot_limit=scenario.spot_limit(problem.rules),
        keeps_spare=scenario.keeps_spare(problem.rules),
    )
