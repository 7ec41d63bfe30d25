"""The cheapest fleet as a mixed-integer linear program.

Sets
    S  request sizes that have requests; O  offers

Constants
    rate[s]   requests a second of size s
    T[s,o]    throughput: requests a second one replica of o sustains of size s; 0: cannot serve it
    price[o]  USD an hour of one replica
    u[o]      utilisation limit: highest planned load of a replica, in (0, 1]
    cap[o]    how many replicas can be had (or what the whole load needs, where nothing caps it)

Variables
    share[s,o] in [0, 1]  share of size s that offer o serves; absent where T[s,o] = 0
    count[o] in {0, 1, ...}  replicas of offer o

Objective
    minimise  sum_o price[o] * count[o]
    and among the cheapest fleets  minimise  sum_o count[o]

Constraints
    (1) every size is served:        sum_o share[s,o] = 1                              for s in S
    (2) no replica is overloaded:    sum_s rate[s] / (T[s,o] * u[o]) * share[s,o] <= count[o]
                                                                                       for o in O
    (3) a share needs a replica:     share[s,o] <= count[o]               for s in S, o in O
    (4) no more than can be had:     count[o] <= cap[o]                                for o in O
    (5) second objective only:       sum_o price[o] * count[o] <= cheapest cost

(3) follows from (2) for whole counts; it tightens the relaxation, and it keeps a load smaller than a
solver's integrality tolerance from being served by no replica at all. Shares enter the program scaled
(see `planner.share_program`), and where a size takes at least one replica (2) already implies (3) for
its scaled share, so that row is left out. Capacity is pooled over an
offer's replicas, exactly: spread each share evenly over them and each carries load / count <= u.

Source: Mélange (Griggs et al., arXiv 2404.14527) with its slices made continuous, which relaxes the
program for every slice factor, plus the utilisation limit and the caps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pulp

from planner.fleet_problem import FleetProblem
from planner.share_program import ShareProgram
from planner.solvers import SolverChain

PROVEN_GAP_FRACTION = 1e-6
"""A relative gap up to this is rounding: the plan counts as optimal."""

SEARCH_GAP_FRACTION = 1e-7
"""The relative gap at which a search stops unless told otherwise: well under the proven one."""

CountStatus = Literal["optimal", "feasible", "infeasible", "time_limit"]


@dataclass(frozen=True, slots=True)
class FleetCounts:
    """Replicas of every offer, and how good they provably are."""

    status: CountStatus
    """`feasible`: the gap is open. `time_limit`: nothing was found in time."""
    counts: tuple[int, ...]
    """Replicas by offer; empty unless optimal or feasible."""
    cost_usd_per_hour: float
    bound_usd_per_hour: float
    """No fleet that serves the workload costs less."""
    solver: str
    """Name of the solver that answered."""

    @property
    def gap_fraction(self) -> float:
        """How far the cost may lie above the cheapest, as a share of the cost."""
        if self.cost_usd_per_hour <= 0:
            return 0.0
        return (self.cost_usd_per_hour - self.bound_usd_per_hour) / self.cost_usd_per_hour


@dataclass(frozen=True, slots=True)
class _Program:
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
) -> FleetCounts:
    """Return the cheapest replica counts; of equally cheap ones, those with the fewest replicas.

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
    program = _build(problem)
    answer = solver.minimise(
        program.lp, time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction
    )
    if answer.verdict != "solved":
        return FleetCounts(answer.verdict, (), 0.0, 0.0, answer.solver)
    bound = answer.bound * program.unit_usd_per_hour
    best = _counts(problem, program, bound, answer.solver)
    remaining_seconds = time_limit_seconds - (clock() - started)
    if best.status != "optimal" or remaining_seconds <= 0:
        return best
    return _fewest(problem, program, best, solver, remaining_seconds)


def _build(problem: FleetProblem) -> _Program:
    offers = range(len(problem.offers))
    shares = ShareProgram(problem, "fleet", offers=offers)
    lp = shares.lp
    # (4) no more than can be had
    count = [
        lp.add_variable(f"count_{o}", 0, problem.most_replicas(o), pulp.LpInteger) for o in offers
    ]
    prices = [offer.price_usd_per_hour for offer in problem.offers]
    unit = min((price for price in prices if price > 0), default=1.0)
    cost = pulp.lpSum(prices[o] / unit * count[o] for o in offers)
    lp.setObjective(cost)
    for s in range(len(problem.sizes)):
        # (1) every size is served
        lp += shares.served(s) == shares.weight(s), f"served_{s}"
    for o in offers:
        # (2) no replica is overloaded
        lp += shares.needed(o) <= count[o], f"load_{o}"
    for (s, o), part in shares.part.items():
        if shares.is_small(s, o):
            # (3) a share needs a replica
            lp += part <= count[o], f"replica_{s}_{o}"
    return _Program(lp, count, cost, unit)


def _counts(
    problem: FleetProblem, program: _Program, bound_usd_per_hour: float, solver: str
) -> FleetCounts:
    # Rounded, not truncated: a solver's 3.9999999 is 4 replicas.
    counts = tuple(round(variable.value()) for variable in program.count)
    prices = (offer.price_usd_per_hour for offer in problem.offers)
    cost = sum(price * count for price, count in zip(prices, counts, strict=True))
    bound = min(max(bound_usd_per_hour, 0.0), cost)
    found = FleetCounts("feasible", counts, cost, bound, solver)
    if found.gap_fraction > PROVEN_GAP_FRACTION:
        return found
    return FleetCounts("optimal", counts, cost, bound, solver)


def _fewest(
    problem: FleetProblem,
    program: _Program,
    best: FleetCounts,
    solver: SolverChain,
    time_limit_seconds: float,
) -> FleetCounts:
    # (5) the cheapest cost stays, up to rounding
    lp = program.lp
    lp += (
        program.cost <= best.cost_usd_per_hour / program.unit_usd_per_hour * (1 + 1e-9),
        "cheapest",
    )
    lp.setObjective(pulp.lpSum(program.count))
    answer = solver.minimise(lp, time_limit_seconds=time_limit_seconds)
    if answer.verdict != "solved":
        return best
    fewest = _counts(problem, program, best.bound_usd_per_hour, best.solver)
    return fewest if fewest.status == "optimal" else best
