"""Fleet problems for tests, and oracles that share no code with the planner's programs."""

import itertools
import random

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from planner.fleet_problem import FleetProblem, OfferColumn
from planner.workload import RequestSize


def fleet_problem(rates, offers):
    """Return a problem from rates and (price, throughputs[, limit[, cap]]) tuples."""
    sizes = tuple(
        RequestSize(100 * index, 100 * (index + 1), 0, 100, rate)
        for index, rate in enumerate(rates)
    )
    columns = []
    for index, (price, throughputs, *rest) in enumerate(offers):
        limit, cap = (*rest, *(1.0, None)[len(rest) :])
        columns.append(OfferColumn(f"offer-{index}", price, limit, cap, tuple(throughputs)))
    return FleetProblem(sizes, tuple(columns))


def random_problem(seed, *, capped_fraction=0.35):
    """Return a small problem; about one cell in five is infeasible."""
    generator = random.Random(seed)
    num_sizes, num_offers = generator.randint(1, 4), generator.randint(1, 3)
    rates = [generator.uniform(0.2, 4.0) for _ in range(num_sizes)]
    offers = []
    for _ in range(num_offers):
        throughputs = [
            0.0 if generator.random() < 0.2 else generator.uniform(0.8, 6.0) for _ in rates
        ]
        cap = generator.randint(0, 3) if generator.random() < capped_fraction else None
        price = round(generator.uniform(0.3, 5.0), 2)
        offers.append((price, throughputs, generator.choice([1.0, 0.85, 0.6]), cap))
    return fleet_problem(rates, offers)


def carries(problem, counts):
    """Tell whether counts carry the load: a transportation program over shares."""
    cells = [
        (s, o)
        for s in range(len(problem.sizes))
        for o, offer in enumerate(problem.offers)
        if offer.throughputs_requests_per_second[s] > 0 and counts[o] > 0
    ]
    if {s for s, _ in cells} != set(range(len(problem.sizes))):
        return False
    served = np.zeros((len(problem.sizes), len(cells)))
    load = np.zeros((len(problem.offers), len(cells)))
    for column, (s, o) in enumerate(cells):
        offer = problem.offers[o]
        served[s, column] = 1
        rate = problem.sizes[s].rate_requests_per_second
        load[o, column] = rate / offer.throughputs_requests_per_second[s]
    room = [o.utilisation_limit_fraction * n for o, n in zip(problem.offers, counts, strict=True)]
    answer = linprog(
        np.zeros(len(cells)), A_ub=load, b_ub=room, A_eq=served, b_eq=np.ones(len(served))
    )
    return answer.status == 0


def brute_force_cost(problem):
    """Return the cheapest cost by trying all counts, cheapest first, or None if none will do."""
    ranges = []
    for offer in problem.offers:
        whole = sum(
            size.rate_requests_per_second / throughput
            for size, throughput in zip(
                problem.sizes, offer.throughputs_requests_per_second, strict=True
            )
            if throughput > 0
        )
        most = int(np.ceil(whole / offer.utilisation_limit_fraction)) + 1
        ranges.append(
            range(min(most, most if offer.max_replicas is None else offer.max_replicas) + 1)
        )

    def cost(counts):
        return sum(n * o.price_usd_per_hour for n, o in zip(counts, problem.offers, strict=True))

    for counts in sorted(itertools.product(*ranges), key=cost):
        if carries(problem, counts):
            return cost(counts)
    return None


def sliced_cost(problem, slices):
    """Return the cost of the published program: each size cut into slices assigned as a whole."""
    num_offers = len(problem.offers)
    items = [s for s in range(len(problem.sizes)) for _ in range(slices)]
    num_cells = len(items) * num_offers
    prices = [offer.price_usd_per_hour for offer in problem.offers]
    assigned = sparse.lil_matrix((len(items), num_cells + num_offers))
    load = sparse.lil_matrix((num_offers, num_cells + num_offers))
    upper = np.ones(num_cells + num_offers)
    upper[num_cells:] = np.inf
    for i, s in enumerate(items):
        for o, offer in enumerate(problem.offers):
            column = i * num_offers + o
            assigned[i, column] = 1
            throughput = offer.throughputs_requests_per_second[s]
            if throughput == 0:
                upper[column] = 0
            else:
                rate = problem.sizes[s].rate_requests_per_second
                load[o, column] = rate / slices / throughput / offer.utilisation_limit_fraction
    for o in range(num_offers):
        load[o, num_cells + o] = -1
    answer = milp(
        np.concatenate([np.zeros(num_cells), prices]),
        constraints=[
            LinearConstraint(assigned.tocsr(), 1, 1),
            LinearConstraint(load.tocsr(), -np.inf, 0),
        ],
        integrality=np.ones(num_cells + num_offers),
        bounds=Bounds(0, upper),
        options={"mip_rel_gap": 0},
    )
    assert answer.status == 0
    return answer.fun


def melange_problem():
    """Return Mélange's published example."""
    return fleet_problem([6, 3, 15, 6], [(1.01, [2, 1, 5, 2]), (3.67, [20, 20, 40, 20])])
