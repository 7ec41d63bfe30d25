"""Small fleet problems with rules, and an oracle that shares no code with the planner's programs."""

import itertools
import math
import random

import numpy as np
from scipy.optimize import linprog

from planner.fleet_program.problem import Cap, FleetProblem, ReplicaColumn, Rules, ShareRow

MARKETS = ("on-demand", "spot")


def one_model(rates, offers, *, rules=None, caps=()):
    """Return a problem from rates and (price, throughputs[, limit]) tuples; 0: cannot serve."""
    columns = []
    for index, (price, throughputs, *rest) in enumerate(offers):
        loads = tuple(
            rate / throughput if throughput else None
            for rate, throughput in zip(rates, throughputs, strict=True)
        )
        limit = rest[0] if rest else 1.0
        columns.append(ReplicaColumn(0, f"offer-{index}", price, loads, limit))
    rows = tuple(ShareRow(0, f"row {index}", rate) for index, rate in enumerate(rates))
    return FleetProblem(("m",), rows, tuple(columns), tuple(caps), rules or Rules())


def melange_program():
    """Return Mélange's published example."""
    return one_model([6, 3, 15, 6], [(1.01, [2, 1, 5, 2]), (3.67, [20, 20, 40, 20])])


def random_program(seed, *, models=None, rules=None, capped=True):
    """Return a small problem; about one cell in six cannot be served."""
    rng = random.Random(seed)
    num_models = models or rng.randint(1, 2)
    num_rows = [rng.randint(1, 3) for _ in range(num_models)]
    columns = []
    for model in range(num_models):
        for offer in range(rng.randint(1, 3 if num_models == 1 else 2)):
            market = rng.choice(MARKETS)
            columns.append(
                ReplicaColumn(
                    model=model,
                    offer=f"offer-{offer}",
                    price_usd_per_hour=0.0
                    if rng.random() < 0.1
                    else round(rng.uniform(0.3, 5.0), 2),
                    loads=tuple(
                        None if rng.random() < 0.15 else rng.uniform(0.1, 1.1)
                        for _ in range(num_rows[model])
                    ),
                    utilisation_limit_fraction=rng.choice([1.0, 0.85, 0.6]),
                    gpus=rng.choice([1, 2]),
                    market=market,
                    is_spot=market == "spot",
                    current_replicas=rng.choice([None, 0, 1, 2]),
                )
            )
    caps = []
    if capped and rng.random() < 0.6:
        members = tuple(o for o in range(len(columns)) if rng.random() < 0.7)
        caps.append(Cap("pool", rng.randint(1, 6), members))
    return FleetProblem(
        models=tuple(f"m{model}" for model in range(num_models)),
        rows=tuple(
            ShareRow(model, f"m{model} row {row}")
            for model in range(num_models)
            for row in range(num_rows[model])
        ),
        columns=tuple(columns),
        caps=tuple(caps),
        rules=_random_rules(rng, num_models) if rules is None else rules,
    )


def _random_rules(rng, num_models):
    def maybe(value):
        return value if rng.random() < 0.3 else None

    return Rules(
        budget_usd_per_hour=maybe(rng.uniform(3, 15)),
        spot_fraction_limit=maybe(rng.choice([0.0, 0.3, 0.7, 1.0])),
        min_replicas_used=rng.choice([0, 0, 0, 1, 2]),
        min_replicas_of_model=rng.choice([(), (), (2,) * num_models]),
        max_change_replicas=maybe(rng.choice([1, 2])),
        survive_one_replica=rng.random() < 0.35,
        survive_one_market=rng.random() < 0.25,
    )


def brute_force_cost(problem):
    """Return the cheapest cost by trying all counts, cheapest first; None if none will do."""
    spare = 1 if problem.rules.survive_one_replica else 0
    ranges = []
    for column in problem.columns:
        load = sum(load for load in column.loads if load is not None)
        needed = math.ceil(load / column.utilisation_limit_fraction) + spare
        minima = problem.rules.min_replicas_of_model
        least = max(minima[column.model] if minima else 0, problem.rules.min_replicas_used, 1)
        change, current = problem.rules.max_change_replicas, column.current_replicas or 0
        if load == 0:
            # What serves nothing stands only where a bounded change keeps it.
            kept = max(0, current - change) if change is not None else 0
            kept = max(kept, column.min_replicas)
            ranges.append(range(kept, kept + 1))
        else:
            ranges.append(range(max(needed, least, current, column.min_replicas) + 1))

    def cost(counts):
        return sum(n * c.price_usd_per_hour for n, c in zip(counts, problem.columns, strict=True))

    for counts in sorted(itertools.product(*ranges), key=cost):
        if is_plan(problem, counts):
            return cost(counts)
    return None


def is_plan(problem, counts):
    """Tell whether counts keep every rule and carry every scenario."""
    if not _keeps_count_rules(problem, counts):
        return False
    rules = problem.rules
    markets = {column.market for column in problem.columns}
    for lost in (None, *(sorted(markets) if rules.survive_one_market else ())):
        for model in range(len(problem.models)):
            if not _carries(problem, counts, model, lost):
                return False
    return True


def _keeps_count_rules(problem, counts):
    rules = problem.rules
    for column, count in zip(problem.columns, counts, strict=True):
        if 0 < count < rules.min_replicas_used or count < column.min_replicas:
            return False
        change, current = rules.max_change_replicas, column.current_replicas
        if change is not None and current is not None and abs(count - current) > change:
            return False
    for cap in problem.caps:
        if sum(counts[o] * problem.columns[o].gpus for o in cap.columns) > cap.limit:
            return False
    for model, least in enumerate(rules.min_replicas_of_model):
        own = [n for n, c in zip(counts, problem.columns, strict=True) if c.model == model]
        if sum(own) < least:
            return False
    cost = sum(n * c.price_usd_per_hour for n, c in zip(counts, problem.columns, strict=True))
    return rules.budget_usd_per_hour is None or cost <= rules.budget_usd_per_hour + 1e-9


def _carries(problem, counts, model, lost):
    rows = [r for r, row in enumerate(problem.rows) if row.model == model]
    room, cells = {}, []
    for o, column in enumerate(problem.columns):
        if column.model != model or column.market == lost or counts[o] == 0:
            continue
        room[o] = counts[o] * (column.utilisation_limit_fraction if lost is None else 1.0)
        if lost is None and problem.rules.survive_one_replica:
            room[o] = min(room[o], counts[o] - 1)
        cells += [(i, o) for i, load in enumerate(column.loads) if load is not None]
    if {i for i, _ in cells} != set(range(len(rows))):
        return False
    served = np.array([[float(i == row) for i, _ in cells] for row in range(len(rows))])
    above = [[problem.columns[o].loads[i] * (o == used) for i, o in cells] for used in room]
    limits = list(room.values())
    spot = problem.rules.spot_fraction_limit
    if lost is None and spot is not None:
        above += [
            [float(i == row and problem.columns[o].is_spot) for i, o in cells]
            for row in range(len(rows))
        ]
        limits += [spot] * len(rows)
    answer = linprog(
        np.zeros(len(cells)), A_ub=above, b_ub=limits, A_eq=served, b_eq=np.ones(len(rows))
    )
    return answer.status == 0
