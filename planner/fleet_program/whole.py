"""The whole fleet problem as one mixed-integer program, for problems of a few thousand shares.

Sets
    R  rows, each of one model; O  columns, each of one model; S  scenarios; C  count rows

Constants
    load[r,o]   replicas of column o, at full load, that all of row r occupies; absent: cannot serve
    price[o]    USD an hour of one replica
    u[s,o]      utilisation limit: the column's in normal operation, 1 where a market is lost
    q           highest share of a row on spot offers
    low[o], high[o], least_used[o], weight[c,o], least[c], most[c]   bounds and count rows (`limits`)

Variables
    share[s,r,o] in [0, 1]  share of row r that column o serves in scenario s
    count[o] in {low[o], ..., high[o]}  replicas;  used[o] in {0, 1}

Objective
    minimise  sum_o price[o] * count[o]
    and among the cheapest  minimise  sum_o count[o],  then  sum_o rank of the offer's name * count[o]

Constraints
    (1) everything is served:          sum_o share[s,r,o] = 1                             s in S, r in R
    (2) no replica is overloaded:      sum_r load[r,o] * share[s,r,o] <= u[s,o] * count[o]
    (3) one replica may be lost:       sum_r load[r,o] * share[s,r,o] <= count[o] - used[o]   normal
    (4) a share needs a replica:       share[s,r,o] <= used[o]                            see below
    (5) used means replicas:           least_used[o] * used[o] <= count[o] <= high[o] * used[o]
    (6) spot is limited:               sum_{o spot} share[s,r,o] <= q                         normal
    (7) caps, budget, minima:          least[c] <= sum_o weight[c,o] * count[o] <= most[c]      c in C
    (8) second objective only:         the cheapest cost stays

(3) stands where one replica's loss is survived, (5) where used[o] matters. Elsewhere (4) reads
share <= count and (2) implies it, up to tolerances: it stands for rows of next to no load. Shares enter scaled to parts[s,r,o] = share * max(1, load / u), so that a solver's
tolerance never hides whole replicas of a row that takes thousands (see `_Scenario`).

Source: Mélange (Griggs et al., arXiv 2404.14527) with its slices made continuous, which relaxes the
program for every slice factor; the rest is ours.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pulp

from planner.fleet_program.answer import PROVEN_GAP_FRACTION, CountsFound, gap_fraction
from planner.fleet_program.limits import (
    ROUNDING,
    CountBounds,
    Scenario,
    cost_usd_per_hour,
    count_bounds,
    count_rows,
    scenarios,
)
from planner.fleet_program.problem import FleetProblem
from planner.solvers import SolverChain

NEGLIGIBLE_REPLICAS = 0.01
"""A row that takes fewer could be served by a solver's tolerance alone."""


@dataclass(frozen=True, slots=True)
class WholeProgram:
    """The program, before or after it is solved."""

    lp: pulp.LpProblem
    count: list[pulp.LpVariable]
    cost: pulp.LpAffineExpression
    unit_usd_per_hour: float
    """What 1 of `cost` stands for: the lowest price, as solvers stop at 1e-6 of the objective."""


def cheapest_counts(
    problem: FleetProblem,
    solver: SolverChain,
    *,
    time_limit_seconds: float,
    gap_fraction: float,
    clock: Callable[[], float],
) -> CountsFound:
    """Return the cheapest counts; of equally cheap ones the fewest, then the first by offer name.

    Args:
        problem: The numbers.
        solver: Who solves it.
        time_limit_seconds: For both objectives together.
        gap_fraction: Relative gap at which the search may stop.
        clock: Seconds from any start.

    Raises:
        SolverError: If no solver works.
    """
    started = clock()
    bounds = count_bounds(problem)
    if bounds.is_empty:
        return CountsFound("infeasible")
    program = _build(problem, bounds)
    answer = solver.minimise(
        program.lp, time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction
    )
    if answer.verdict != "solved":
        return CountsFound(answer.verdict, solver=answer.solver)
    bound = answer.bound * program.unit_usd_per_hour
    best = _counts(problem, program, bound, answer.solver)
    remaining_seconds = time_limit_seconds - (clock() - started)
    if answer.is_unique or best.status != "optimal" or remaining_seconds <= 0:
        return best
    return _first_of_the_cheapest(problem, program, best, solver, remaining_seconds)


def whole_program(problem: FleetProblem) -> WholeProgram:
    """Return the program with the cost as its objective; the bounds must not be empty."""
    return _build(problem, count_bounds(problem))


def _build(problem: FleetProblem, bounds: CountBounds) -> WholeProgram:
    lp = pulp.LpProblem("fleet", pulp.LpMinimize)
    columns, rules = problem.columns, problem.rules
    count = [
        lp.add_variable(f"count_{o}", low, high, pulp.LpInteger)
        for o, (low, high) in enumerate(zip(bounds.lower, bounds.upper, strict=True))
    ]
    unit = min((c.price_usd_per_hour for c in columns if c.price_usd_per_hour > 0), default=1.0)
    cost = pulp.lpSum(c.price_usd_per_hour / unit * n for c, n in zip(columns, count, strict=True))
    lp.setObjective(cost)
    used = count
    if rules.survive_one_replica or rules.min_replicas_used > 1:
        used = [lp.add_variable(f"used_{o}", 0, 1, pulp.LpInteger) for o in range(len(columns))]
        for o, high in enumerate(bounds.upper):
            # (5) used means replicas
            lp += bounds.least_used[o] * used[o] <= count[o]
            lp += count[o] <= high * used[o]
    for number, scenario in enumerate(scenarios(problem)):
        _Scenario(problem, scenario, number, lp).add(count, used)
    for row in count_rows(problem):
        # (7) caps, budget, minima; divided by the row's largest number to keep the solver's tolerance
        total = pulp.lpSum(weight * count[o] for o, weight in row.terms)
        if row.lower > 0:
            lp += total >= row.lower
        if row.upper < float("inf"):
            scale = max([1.0, *(weight for _, weight in row.terms)])
            lp += total * (1 / scale) <= row.upper / scale
    return WholeProgram(lp, count, cost, unit)


class _Scenario:
    """The parts of one scenario: a share times max(1, need), need = load / u in replicas.

    A solver's tolerance of 1e-6 on a share is harmless where the row takes two replicas, and hides
    whole replicas where it takes a million. A part counts replicas where the row is large, is a
    share where it is small, and no coefficient exceeds 1.
    """

    def __init__(
        self, problem: FleetProblem, scenario: Scenario, number: int, lp: pulp.LpProblem
    ) -> None:
        self._problem, self._scenario, self._lp = problem, scenario, lp
        self._need: dict[tuple[int, int], float] = {}
        for model in range(len(problem.models)):
            rows = problem.rows_of(model)
            for o in problem.columns_of(model):
                column = problem.columns[o]
                for r, load in zip(rows, column.loads, strict=True):
                    if load is not None and scenario.has(column):
                        self._need[r, o] = load / scenario.limit_fraction(column)
        self._part = {
            (r, o): lp.add_variable(f"part_{number}_{r}_{o}", 0, max(1.0, need))
            for (r, o), need in self._need.items()
        }

    def add(self, count: list[pulp.LpVariable], used: list[pulp.LpVariable]) -> None:
        """Add the scenario's constraints."""
        problem, lp, scenario = self._problem, self._lp, self._scenario
        by_row: dict[int, list[int]] = {r: [] for r in range(len(problem.rows))}
        by_column: dict[int, list[int]] = {o: [] for o in range(len(problem.columns))}
        for r, o in self._need:
            by_row[r].append(o)
            by_column[o].append(r)
        spot_limit = scenario.spot_limit(problem.rules)
        for r, servers in by_row.items():
            self._serve(r, servers, spot_limit)
        for o, rows in by_column.items():
            if not rows:
                continue
            need = pulp.LpAffineExpression(
                [(self._part[r, o], min(self._need[r, o], 1.0)) for r in rows]
            )
            # (2) no replica is overloaded
            lp += need <= count[o]
            if scenario.keeps_spare(problem.rules):
                # (3) one replica may be lost
                limit = scenario.limit_fraction(problem.columns[o])
                lp += limit * need <= count[o] - used[o]
            for r in rows:
                # (4) a share needs a replica
                if self._need[r, o] <= NEGLIGIBLE_REPLICAS or used is not count:
                    scale = max(1.0, self._need[r, o])
                    lp += self._part[r, o] <= scale * used[o]

    def _serve(self, r: int, servers: list[int], spot_limit: float | None) -> None:
        if not servers:
            self._lp += pulp.LpAffineExpression() >= 1
            return
        scale = {o: max(1.0, self._need[r, o]) for o in servers}
        weight = min(scale.values())
        share = [(self._part[r, o], weight / scale[o]) for o in servers]
        # (1) everything is served
        self._lp += pulp.LpAffineExpression(share) == weight
        spot = [s for o, s in zip(servers, share, strict=True) if self._problem.columns[o].is_spot]
        if spot and spot_limit is not None:
            # (6) spot is limited
            self._lp += pulp.LpAffineExpression(spot) <= spot_limit * weight


def _counts(
    problem: FleetProblem, program: WholeProgram, bound_usd_per_hour: float, solver: str
) -> CountsFound:
    # A count that stands in no row and costs nothing has no value. The others are rounded, not
    # truncated: a solver's 3.9999999 is 4 replicas.
    counts = tuple(
        variable.lowBound if variable.value() is None else round(variable.value())
        for variable in program.count
    )
    cost = cost_usd_per_hour(problem, counts)
    bound = min(max(bound_usd_per_hour, 0.0), cost)
    proven = gap_fraction(cost, bound) <= PROVEN_GAP_FRACTION
    return CountsFound("optimal" if proven else "feasible", counts, cost, bound, solver)


def _first_of_the_cheapest(
    problem: FleetProblem,
    program: WholeProgram,
    best: CountsFound,
    solver: SolverChain,
    time_limit_seconds: float,
) -> CountsFound:
    # (8) the cheapest cost stays, up to rounding
    lp = program.lp
    cheapest = best.cost_usd_per_hour / program.unit_usd_per_hour
    lp += program.cost <= cheapest * (1 + ROUNDING)
    lp += program.cost >= cheapest * (1 - ROUNDING)
    names = sorted({column.offer for column in problem.columns})
    rank = [names.index(column.offer) for column in problem.columns]
    # No sum of ranks outweighs one replica: counts never exceed the first answer's total.
    replica = len(names) * sum(best.counts) + 1
    lp.setObjective(
        pulp.lpSum((replica + rank[o]) * variable for o, variable in enumerate(program.count))
    )
    answer = solver.minimise(lp, time_limit_seconds=time_limit_seconds)
    if answer.verdict != "solved":
        return best
    first = _counts(problem, program, best.bound_usd_per_hour, best.solver)
    return first if first.status == "optimal" else best
