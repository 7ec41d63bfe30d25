"""Shares at fixed replica counts, chosen so that the fullest column is emptiest; and their check.

Sets and constants as in `planner.fleet_program.whole`, one model and one scenario at a time, with
capacity[o] > 0 the load that the counts of column o carry in the scenario.

Variables
    share[r,o] in [0, 1];  fullness >= 0

Objective
    minimise  fullness

Constraints
    (1) sum_o share[r,o] = 1                                            for r in R
    (2) sum_r load[r,o] / capacity[o] * share[r,o] <= fullness          for o in O
    (3) sum_{o spot} share[r,o] <= q                                    for r in R

Shares enter scaled to parts = share * max(1, load / capacity), as in `planner.fleet_program.whole`.
The cheapest fleet often has room to spare, and a MILP's own shares may load one offer to its limit
beside an idle one. At fixed counts the loads are also exact, free of the MILP's integer tolerance.
"""

from collections.abc import Sequence

import pulp

from planner.errors import SolverError
from planner.fleet_program.answer import RowShares, Shares
from planner.fleet_program.limits import Scenario, cost_usd_per_hour
from planner.fleet_program.problem import FleetProblem
from planner.solvers import SolverChain

OVERLOAD_TOLERANCE = 1e-5
"""Relative excess over a capacity that solvers' tolerances may leave."""

NO_SHARE = 1e-9
"""A share below this is the solver's noise."""


def balanced_shares(
    problem: FleetProblem, counts: Sequence[int], scenario: Scenario, solver: SolverChain
) -> Shares:
    """Return the shares of one scenario that keep the highest fullness as low as possible.

    Raises:
        SolverError: If no solver works, or the counts do not carry the load after all.
    """
    shares: dict[int, RowShares] = {}
    for model in range(len(problem.models)):
        shares.update(_of_model(problem, model, counts, scenario, solver))
    found = tuple(shares[r] for r in range(len(problem.rows)))
    check_shares(problem, counts, scenario, found)
    return found


def check_shares(
    problem: FleetProblem, counts: Sequence[int], scenario: Scenario, shares: Shares
) -> None:
    """Check that everything is served, no capacity exceeded and the spot limit kept.

    Shares no code with the programs that found the shares.

    Raises:
        SolverError: Naming the row or column that fails.
    """
    position = {r: i for m in range(len(problem.models)) for i, r in enumerate(problem.rows_of(m))}
    loads = [0.0] * len(problem.columns)
    limit = scenario.spot_limit(problem.rules)
    for r, row in enumerate(shares):
        if abs(sum(share for _, share in row) - 1) > NO_SHARE:
            raise SolverError(f"{problem.rows[r].name} is not served in full; report this")
        spot = sum(share for o, share in row if problem.columns[o].is_spot)
        if limit is not None and spot > limit + OVERLOAD_TOLERANCE:
            raise SolverError(f"{problem.rows[r].name} has {spot:g} on spot, above {limit:g}")
        for o, share in row:
            load = problem.columns[o].loads[position[r]]
            if load is None or problem.columns[o].model != problem.rows[r].model:
                raise SolverError(f"{problem.columns[o].offer} cannot serve {problem.rows[r].name}")
            loads[o] += load * share
    for column, load, count in zip(problem.columns, loads, counts, strict=True):
        if load > scenario.capacity(column, problem.rules, count) * (1 + OVERLOAD_TOLERANCE):
            raise SolverError(
                f"{column.offer} carries {load:g} on {count} replicas, above its limit; "
                "check the throughputs and rates for a wrong unit"
            )


def check_counts(problem: FleetProblem, counts: Sequence[int]) -> None:
    """Check that counts keep the caps and every rule that speaks of counts alone.

    Raises:
        SolverError: Naming what is broken.
    """
    rules, columns = problem.rules, problem.columns
    for cap in problem.caps:
        used = sum(cap.use_of(columns[o]) * counts[o] for o in cap.columns)
        if used > cap.limit:
            raise SolverError(f"{cap.name} takes {used} of {cap.limit} {cap.unit}; report this")
    for column, count in zip(columns, counts, strict=True):
        least = max(column.min_replicas, rules.min_replicas_used if count else 0)
        if count < least:
            raise SolverError(
                f"{column.offer} has {count} replicas, below the minimum; report this"
            )
        step, current = rules.max_change_replicas, column.current_replicas
        if step is not None and current is not None and abs(count - current) > step:
            raise SolverError(f"{column.offer} goes from {current} to {count}; report this")
    for model, least in enumerate(rules.min_replicas_of_model):
        if sum(counts[o] for o in problem.columns_of(model)) < least:
            raise SolverError(
                f"{problem.models[model]} has fewer than {least} replicas; report this"
            )
    budget, cost = rules.budget_usd_per_hour, cost_usd_per_hour(problem, counts)
    if budget is not None and cost > budget * (1 + OVERLOAD_TOLERANCE):
        raise SolverError(f"the plan costs {cost:g} USD/h of {budget:g}; report this")


def _of_model(
    problem: FleetProblem,
    model: int,
    counts: Sequence[int],
    scenario: Scenario,
    solver: SolverChain,
) -> dict[int, RowShares]:
    rows = problem.rows_of(model)
    capacity = {
        o: scenario.capacity(problem.columns[o], problem.rules, counts[o])
        for o in problem.columns_of(model)
    }
    loads = {
        (r, o): load
        for o, room in capacity.items()
        for r, load in zip(rows, problem.columns[o].loads, strict=True)
        if room > 0 and load is not None
    }
    lp = pulp.LpProblem("shares", pulp.LpMinimize)
    scale = {(r, o): max(1.0, load / capacity[o]) for (r, o), load in loads.items()}
    part = {key: lp.add_variable(f"part_{key[0]}_{key[1]}", 0, most) for key, most in scale.items()}
    fullness = lp.add_variable("fullness", 0)
    lp.setObjective(1 * fullness)
    limit = scenario.spot_limit(problem.rules)
    for r in rows:
        servers = [o for o in capacity if (r, o) in part]
        if not servers:
            raise SolverError(f"nothing left serves {problem.rows[r].name}; report this")
        weight = min(scale[r, o] for o in servers)
        share = [(part[r, o], weight / scale[r, o]) for o in servers]
        # (1) everything is served
        lp += pulp.LpAffineExpression(share) == weight
        spot = [s for o, s in zip(servers, share, strict=True) if problem.columns[o].is_spot]
        if spot and limit is not None:
            # (3) spot is limited
            lp += pulp.LpAffineExpression(spot) <= limit * weight
    for o, room in capacity.items():
        if room > 0:
            # (2) no column is fuller than the fullest
            used = [(part[r, o], loads[r, o] / room / scale[r, o]) for r in rows if (r, o) in part]
            lp += pulp.LpAffineExpression(used) <= fullness
    answer = solver.minimise(lp)
    if answer.verdict != "solved":
        raise SolverError(f"{answer.solver} could not share out the load: {answer.verdict}")
    return {
        r: _normalised([(o, part[r, o].value() / scale[r, o]) for o in capacity if (r, o) in part])
        for r in rows
    }


def _normalised(row: list[tuple[int, float]]) -> RowShares:
    kept = [(o, value) for o, value in row if value > NO_SHARE]
    total = sum(value for _, value in kept)
    return tuple((o, value / total) for o, value in kept)
