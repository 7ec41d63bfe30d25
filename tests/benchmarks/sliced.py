"""The published sliced binary program (planner reference: Mélange, arXiv 2404.14527), for comparison.

each size is cut into f slices; assigned[i,o] in {0, 1}: slice i goes to offer o, as a whole
minimise    sum_o price[o] * count[o]
subject to  sum_o assigned[i,o] = 1                                   for every slice i
            sum_i load[i,o] * assigned[i,o] <= u[o] * count[o]        for every offer o

Our own statement of it in PuLP, solved by CBC.
"""

import shutil
import time

import pulp

from planner.fleet_program.problem import FleetProblem


def solve_sliced(
    problem: FleetProblem, *, slices: int, time_limit_seconds: float
) -> tuple[float, bool, float]:
    """Return the cost CBC finds for a problem of one model, whether proven, and its seconds."""
    started = time.perf_counter()
    lp = pulp.LpProblem("sliced", pulp.LpMinimize)
    columns = problem.columns
    count = [lp.add_variable(f"count_{o}", 0, None, pulp.LpInteger) for o in range(len(columns))]
    lp.setObjective(
        pulp.lpSum(c.price_usd_per_hour * n for c, n in zip(columns, count, strict=True))
    )
    load: list[list[pulp.LpAffineExpression]] = [[] for _ in columns]
    for r in range(len(problem.rows)):
        servers = [(o, c.loads[r]) for o, c in enumerate(columns) if c.loads[r] is not None]
        for i in range(slices):
            assigned = {
                o: lp.add_variable(f"assigned_{r}_{i}_{o}", cat=pulp.LpBinary) for o, _ in servers
            }
            lp += pulp.lpSum(assigned.values()) == 1
            for o, whole in servers:
                load[o].append(whole / slices * assigned[o])
    for o, column in enumerate(columns):
        lp += pulp.lpSum(load[o]) <= column.utilisation_limit_fraction * count[o]
    path = shutil.which("cbc") or pulp.PULP_CBC_CMD.pulp_cbc_path
    lp.solve(pulp.COIN_CMD(path=path, msg=False, timeLimit=time_limit_seconds, gapRel=0.0))
    cost = sum(c.price_usd_per_hour * round(n.value()) for c, n in zip(columns, count, strict=True))
    proven = lp.sol_status == pulp.LpSolutionOptimal
    return cost, proven, time.perf_counter() - started
