"""What is linear in the replica counts alone: bounds, caps, budget, minima; and the scenarios.

A *scenario* is a state of the fleet in which everything must be served: normal operation, and the
loss of each market where that is asked. Its capacity of a column with n replicas (y = 1 if n > 0):

    normal               min(u * n, n - y)  if one replica may be lost, else  u * n
    market lost          0 for the market's columns, n for all others
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.fleet_program.problem import FleetProblem, ReplicaColumn, Rules

ROUNDING = 1e-9
"""Relative excess over a whole number of replicas that is floating-point noise, not load."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A state of the fleet in which everything is served."""

    lost_market: str | None = None
    """None: normal operation."""

    def has(self, column: ReplicaColumn) -> bool:
        """Tell whether the column's replicas are there."""
        return self.lost_market is None or column.market != self.lost_market

    def limit_fraction(self, column: ReplicaColumn) -> float:
        """Return the highest utilisation of the column's replicas."""
        return column.utilisation_limit_fraction if self.lost_market is None else 1.0

    def keeps_spare(self, rules: Rules) -> bool:
        """Tell whether the load must fit one replica less."""
        return rules.survive_one_replica and self.lost_market is None

    def spot_limit(self, rules: Rules) -> float | None:
        """Return the highest share of a row on spot; None: no limit."""
        limit = rules.spot_fraction_limit
        return limit if self.lost_market is None and limit is not None and limit < 1 else None

    def capacity(self, column: ReplicaColumn, rules: Rules, replicas: int) -> float:
        """Return the load that so many replicas of the column carry."""
        if not self.has(column):
            return 0.0
        within = self.limit_fraction(column) * replicas
        return max(0.0, min(within, replicas - 1)) if self.keeps_spare(rules) else within


@dataclass(frozen=True, slots=True)
class CountRow:
    """lower <= sum of weight * count <= upper."""

    name: str
    terms: tuple[tuple[int, float], ...]
    """(column, weight) pairs."""
    lower: float = -math.inf
    upper: float = math.inf


@dataclass(frozen=True, slots=True)
class CountBounds:
    """Fewest and most replicas by column; `lower > upper` means that no plan exists."""

    lower: tuple[int, ...]
    upper: tuple[int, ...]
    least_used: tuple[int, ...]
    """Fewest replicas of a column that has any, at least 1."""

    @property
    def is_empty(self) -> bool:
        """Tell whether some column has no possible count."""
        return any(low > high for low, high in zip(self.lower, self.upper, strict=True))


def scenarios(problem: FleetProblem) -> tuple[Scenario, ...]:
    """Return normal operation, then the loss of each market if that is to be survived."""
    lost = problem.markets() if problem.rules.survive_one_market else ()
    return (Scenario(), *(Scenario(market) for market in lost))


def count_rows(problem: FleetProblem) -> tuple[CountRow, ...]:
    """Return caps, budget and the minima by model."""
    rules, columns = problem.rules, problem.columns
    rows = [
        CountRow(
            cap.name,
            tuple((o, float(cap.use_of(columns[o]))) for o in cap.columns),
            upper=cap.limit,
        )
        for cap in problem.caps
    ]
    if rules.budget_usd_per_hour is not None:
        terms = tuple((o, column.price_usd_per_hour) for o, column in enumerate(columns))
        # A budget typed from a plan's printed cost must admit that plan.
        rows.append(CountRow("budget", terms, upper=rules.budget_usd_per_hour * (1 + ROUNDING)))
    for model, least in enumerate(rules.min_replicas_of_model):
        if least > 0:
            terms = tuple((o, 1.0) for o in problem.columns_of(model))
            rows.append(CountRow(f"replicas of {problem.models[model]}", terms, lower=least))
    return tuple(rows)


def count_bounds(problem: FleetProblem) -> CountBounds:
    """Return bounds that some cheapest plan, if there is any plan, keeps."""
    lower, upper = [], []
    for column in problem.columns:
        least = column.min_replicas
        most = max(least, _useful_replicas(problem, column))
        step, current = problem.rules.max_change_replicas, column.current_replicas
        if step is not None and current is not None:
            least = max(least, current - step)
            most = min(max(most, least), current + step)
        lower.append(least)
        upper.append(most)
    for cap in problem.caps:
        for o in cap.columns:
            upper[o] = min(upper[o], cap.limit // cap.use_of(problem.columns[o]))
    least_used = tuple(_least_used(problem, o, low) for o, low in enumerate(lower))
    return CountBounds(tuple(lower), tuple(upper), least_used)


def _least_used(problem: FleetProblem, column: int, lower: int) -> int:
    rules = problem.rules
    minima = rules.min_replicas_of_model
    # A single replica whose loss must be survived carries nothing in normal operation: it stands only
    # where it is forced, or where it carries load once a market is lost.
    may_idle = lower > 0 or (minima and minima[problem.columns[column].model] > 0)
    single_is_useless = rules.survive_one_replica and not (may_idle or rules.survive_one_market)
    return max(1, rules.min_replicas_used, 2 if single_is_useless else 1)


def _useful_replicas(problem: FleetProblem, column: ReplicaColumn) -> int:
    # One more than the whole load needs, so that no tolerance makes the last unit infeasible.
    rules = problem.rules
    load = sum(load for load in column.loads if load is not None)
    needed = max(load / column.utilisation_limit_fraction, load + rules.survive_one_replica)
    minima = rules.min_replicas_of_model
    of_model = minima[column.model] if minima else 0
    if load == 0:
        return 0
    return max(ceil_replicas(needed) + 1, rules.min_replicas_used, of_model)


def ceil_replicas(replicas: float) -> int:
    """Return the whole number of replicas that carries this many at full load, at least 1."""
    return max(1, math.ceil(replicas * (1 - ROUNDING)))


def cost_usd_per_hour(problem: FleetProblem, counts: Sequence[int]) -> float:
    """Return what the counts cost."""
    pairs = zip(problem.columns, counts, strict=True)
    return math.fsum(column.price_usd_per_hour * count for column, count in pairs)
