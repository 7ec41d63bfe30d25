"""Why no fleet serves a workload, in words: the size nobody serves, or the caps and by how much."""

import pulp

from planner.errors import SolverError
from planner.fleet_problem import FleetProblem
from planner.share_program import ShareProgram
from planner.solvers import SolverChain

UNSERVED = 1e-6
"""A share of a size below this counts as served."""

NAMED_SIZES = 3
"""How many sizes a message names before it counts the rest."""


def unservable_size(problem: FleetProblem) -> str | None:
    """Return why the first size that no offer can serve fails, or nothing if all can be served."""
    offers = range(len(problem.offers))
    for s, size in enumerate(problem.sizes):
        if not any(problem.can_serve(s, o) and problem.most_replicas(o) for o in offers):
            causes = ", ".join(
                f"{problem.offers[o].name}: "
                + ("max_replicas 0" if problem.can_serve(s, o) else "throughput 0")
                for o in offers
            )
            return (
                f"no offer can serve {size} ({size.rate_requests_per_second:g} requests/s; "
                f"{causes}); add an offer that can, or set the rate of this size to 0"
            )
    return None


def short_caps(problem: FleetProblem, solver: SolverChain) -> str:
    """Return which caps bind, what they leave unserved, and the smallest change that helps.

    Call it for a problem whose sizes can all be served by some offer, yet not within the caps.

    Raises:
        SolverError: If no solver works.
    """
    raised = ", ".join(
        f"{problem.offers[o].name} from {problem.offers[o].max_replicas} to {count}"
        for o, count in _raised_caps(problem, solver).items()
    )
    if not raised:
        return "max_replicas leaves no room beyond rounding; raise one of the caps by 1"
    unserved = _unserved_fractions(problem, solver)
    missing = {s: fraction for s, fraction in enumerate(unserved) if fraction > UNSERVED}
    rates = [size.rate_requests_per_second for size in problem.sizes]
    lost = sum(rates[s] * fraction for s, fraction in missing.items())
    caps = ", ".join(
        f"{offer.name} {offer.max_replicas}"
        for o, offer in enumerate(problem.offers)
        if offer.max_replicas is not None and any(problem.can_serve(s, o) for s in missing)
    )
    return (
        f"max_replicas binds ({caps}): {lost:.4g} of {sum(rates):.4g} requests/s stay unserved, "
        f"{_in_words(problem, missing)}; the smallest change is to raise max_replicas of {raised}"
    )


def _in_words(problem: FleetProblem, missing: dict[int, float]) -> str:
    worst = sorted(
        ((problem.sizes[s].rate_requests_per_second * part, s) for s, part in missing.items()),
        reverse=True,
    )
    named = "; ".join(f"{problem.sizes[s]} ({rate:.4g})" for rate, s in worst[:NAMED_SIZES])
    further = len(worst) - NAMED_SIZES
    return named + (f" and {further} more sizes" if further > 0 else "")


def _unserved_fractions(problem: FleetProblem, solver: SolverChain) -> list[float]:
    # Every replica that can be had, and the fewest requests lost.
    offers = range(len(problem.offers))
    program = ShareProgram(problem, "unserved", offers=offers)
    unserved = []
    for s in range(len(problem.sizes)):
        unserved.append(program.lp.add_variable(f"unserved_{s}", 0, 1))
        program.lp += program.served(s) + program.weight(s) * unserved[s] == program.weight(s)
    for o in offers:
        program.lp += program.needed(o) <= problem.most_replicas(o)
    total = sum(size.rate_requests_per_second for size in problem.sizes)
    program.lp.setObjective(
        pulp.lpSum(
            size.rate_requests_per_second / total * variable
            for size, variable in zip(problem.sizes, unserved, strict=True)
        )
    )
    _demand_solution(program.lp, solver)
    return [variable.value() for variable in unserved]


def _raised_caps(problem: FleetProblem, solver: SolverChain) -> dict[int, int]:
    # The fewest replicas beyond the caps; returns the cap each changed offer would need.
    offers = range(len(problem.offers))
    program = ShareProgram(problem, "caps", offers=offers)
    for s in range(len(problem.sizes)):
        program.lp += program.served(s) == program.weight(s)
    extra = {}
    for o in offers:
        available = problem.most_replicas(o)
        if problem.offers[o].max_replicas is not None:
            extra[o] = program.lp.add_variable(f"extra_{o}", 0, None, pulp.LpInteger)
            available = available + extra[o]
        program.lp += program.needed(o) <= available
    program.lp.setObjective(pulp.lpSum(extra.values()))
    _demand_solution(program.lp, solver)
    return {
        o: problem.most_replicas(o) + round(variable.value())
        for o, variable in extra.items()
        if round(variable.value()) > 0
    }


def _demand_solution(program: pulp.LpProblem, solver: SolverChain) -> None:
    answer = solver.minimise(program)
    if answer.verdict != "solved":
        raise SolverError(f"{answer.solver} could not tell which cap binds: {answer.verdict}")
