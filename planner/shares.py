"""Shares of every request size at fixed replica counts, chosen so that the fullest offer is emptiest.

Sets and constants as in `planner.ilp`, with count[o] fixed; shares scaled as in
`planner.share_program`.

Variables
    share[s,o] in [0, 1]  for offers with count[o] > 0 that can serve s;  fullness >= 0

Objective
    minimise  fullness

Constraints
    (1) sum_o share[s,o] = 1                                                          for s in S
    (2) sum_s rate[s] / (T[s,o] * u[o]) * share[s,o] <= count[o] * fullness           for o in O

The cheapest fleet often has room to spare, and the MILP's own shares may load one offer to its limit
beside an idle one. At fixed counts the loads are also exact, free of the MILP's integer tolerance.
"""

from collections.abc import Sequence

from planner.errors import SolverError
from planner.fleet_problem import FleetProblem
from planner.share_program import ShareProgram
from planner.solvers import SolverChain

OVERLOAD_TOLERANCE = 1e-5
"""Relative excess over the utilisation limit that solvers' tolerances may leave."""

NO_SHARE = 1e-9
"""A share below this is the solver's noise."""

Shares = tuple[tuple[float, ...], ...]
"""Share by size and offer; every row sums to 1."""


def spread_load(problem: FleetProblem, counts: Sequence[int], solver: SolverChain) -> Shares:
    """Return the shares that keep the highest load, relative to its limit, as low as possible.

    Raises:
        SolverError: If no solver works, or the counts do not carry the load after all.
    """
    used = [offer for offer, count in enumerate(counts) if count > 0]
    program = ShareProgram(problem, "shares", offers=used)
    fullness = program.lp.add_variable("fullness", 0)
    program.lp.setObjective(1 * fullness)
    for s in range(len(problem.sizes)):
        # (1) every size is served
        program.lp += program.served(s) == program.weight(s), f"served_{s}"
    for o in used:
        # (2) no offer is fuller than the fullest
        program.lp += program.needed(o) <= counts[o] * fullness, f"load_{o}"
    answer = solver.minimise(program.lp)
    if answer.verdict != "solved" or fullness.value() > 1 + OVERLOAD_TOLERANCE:
        raise SolverError(
            f"{answer.solver} returned replica counts that do not carry the load; "
            "check the throughputs and rates for a wrong unit"
        )
    return tuple(
        _normalised([program.share(s, o) for o in range(len(counts))])
        for s in range(len(problem.sizes))
    )


def _normalised(row: list[float]) -> tuple[float, ...]:
    kept = [value if value > NO_SHARE else 0.0 for value in row]
    total = sum(kept)
    return tuple(value / total for value in kept)
