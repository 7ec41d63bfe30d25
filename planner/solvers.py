"""The MILP solvers behind PuLP: HiGHS first; where it fails CBC, which is logged and counted."""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import pulp

from planner.errors import SolverError

logger = logging.getLogger(__name__)

Verdict = Literal["solved", "infeasible", "time_limit"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a solver says of a minimisation; the values themselves stay on its variables."""

    verdict: Verdict
    """`solved`: the variables hold a feasible point, optimal up to `bound`. `time_limit`: none."""
    bound: float
    """Lower bound on the objective of every solution, in the objective's unit."""
    solver: str
    """Name of the solver that answered."""
    is_unique: bool = False
    """Whether other values of the whole variables are known to be worse."""


class Solver(Protocol):
    """A back end that minimises a PuLP problem in place."""

    name: str

    def minimise(
        self, program: pulp.LpProblem, *, time_limit_seconds: float, gap_fraction: float
    ) -> Answer:
        """Solve `program`, leave the values on its variables, and return the answer.

        Raises:
            SolverError: If the solver is missing or breaks down.
        """
        ...


class Highs:
    """HiGHS in this process."""

    name = "HiGHS"

    def minimise(
        self, program: pulp.LpProblem, *, time_limit_seconds: float, gap_fraction: float
    ) -> Answer:
        """Minimise; see `Solver`."""
        # Without gapAbs=0 HiGHS stops at 1e-6 of the objective's unit, much for a cheap fleet.
        back_end = _BranchingHighs(
            msg=False, timeLimit=time_limit_seconds, gapRel=gap_fraction, gapAbs=0.0
        )
        if not back_end.available():
            raise SolverError("HiGHS is not installed; install the package highspy")
        _solve(program, back_end)
        if program.status == pulp.LpStatusInfeasible:
            return Answer("infeasible", float("inf"), self.name)
        facts = program.solverModel.getInfo()
        stopped = "Time limit" in program.solverModel.modelStatusToString(
            program.solverModel.getModelStatus()
        )
        # 2 is HiGHS's word for "the primal solution is feasible".
        if program.status == pulp.LpStatusOptimal and facts.primal_solution_status == 2:
            searched = back_end.has_searched
            bound = facts.mip_dual_bound if searched else facts.objective_function_value
            return Answer("solved", bound, self.name, back_end.is_unique)
        if stopped:
            return Answer("time_limit", float("-inf"), self.name)
        raise SolverError(f"HiGHS ended with status {pulp.LpStatus[program.status]!r}")


class _BranchingHighs(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS, with our own branching first where few variables are whole."""

    has_searched = False
    """Whether HiGHS's own search answered: then the bound is that search's."""
    is_unique = False
    """Whether our own found that there is no second optimum."""

    def callSolver(self, lp: pulp.LpProblem) -> None:
        # HiGHS may be missing, which `available` says.
        from planner.branch_and_bound import FEW_WHOLE_VARIABLES, minimise_whole

        whole = [i for i, v in enumerate(lp.variables()) if v.cat == pulp.LpInteger]
        if 0 < len(whole) <= FEW_WHOLE_VARIABLES:
            optimum = minimise_whole(lp.solverModel, whole)
            if optimum is not None:
                self.is_unique = optimum.is_unique
                return
        self.has_searched = bool(whole)
        super().callSolver(lp)


class Cbc:
    """CBC as its own process: the machine's own, or the one inside PuLP."""

    name = "CBC"

    def minimise(
        self, program: pulp.LpProblem, *, time_limit_seconds: float, gap_fraction: float
    ) -> Answer:
        """Minimise; see `Solver`. Stopped early, the bound is the continuous relaxation's."""
        path = shutil.which("cbc") or pulp.PULP_CBC_CMD.pulp_cbc_path
        back_end = pulp.COIN_CMD(
            path=path, msg=False, timeLimit=time_limit_seconds, gapRel=gap_fraction
        )
        if not back_end.available():
            raise SolverError("CBC is not installed; install Debian's coinor-cbc")
        _solve(program, back_end)
        if program.status == pulp.LpStatusInfeasible:
            return Answer("infeasible", float("inf"), self.name)
        if program.status == pulp.LpStatusNotSolved:
            return Answer("time_limit", float("-inf"), self.name)
        if program.status != pulp.LpStatusOptimal:
            raise SolverError(f"CBC ended with status {pulp.LpStatus[program.status]!r}")
        if program.sol_status == pulp.LpSolutionOptimal:
            objective = _objective(program)
            return Answer("solved", objective - gap_fraction * abs(objective), self.name)
        return Answer("solved", _relaxed_bound(program, path), self.name)


class SolverChain:
    """Asks solvers in turn until one answers; counts how often a later one had to."""

    def __init__(self, solvers: Sequence[Solver]) -> None:
        """Take the solvers, the preferred one first."""
        if not solvers:
            raise ValueError("no solver was given; give at least one")
        self._solvers = tuple(solvers)
        self.num_fallbacks = 0

    def starts_with(self, kind: type) -> bool:
        """Tell whether the preferred solver is of the kind."""
        return isinstance(self._solvers[0], kind)

    def note_fallback(self, name: str, error: SolverError) -> None:
        """Log and count that a later way must answer in the place of the one named."""
        self.num_fallbacks += 1
        logger.warning("solver_failed solver=%s reason=%s", name, error)

    def minimise(
        self,
        program: pulp.LpProblem,
        *,
        time_limit_seconds: float = 60.0,
        gap_fraction: float = 0.0,
    ) -> Answer:
        """Solve with the first solver that does not break down; see `Solver`.

        Raises:
            SolverError: If every solver broke down; the message is the last one's.
        """
        for solver in self._solvers[:-1]:
            try:
                return solver.minimise(
                    program, time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction
                )
            except SolverError as error:
                self.note_fallback(solver.name, error)
        return self._solvers[-1].minimise(
            program, time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction
        )


def default_solvers() -> SolverChain:
    """Return HiGHS with CBC as its fallback."""
    return SolverChain([Highs(), Cbc()])


def _solve(program: pulp.LpProblem, back_end: pulp.LpSolver) -> None:
    try:
        program.solve(back_end)
    except pulp.PulpSolverError as error:
        raise SolverError(f"{back_end.name} failed ({error}); check its installation") from error


def _relaxed_bound(program: pulp.LpProblem, path: str) -> float:
    kept = {variable.name: variable.varValue for variable in program.variables()}
    _solve(program, pulp.COIN_CMD(path=path, msg=False, mip=False))
    bound = _objective(program)
    for variable in program.variables():
        variable.varValue = kept[variable.name]
    return bound


def _objective(program: pulp.LpProblem) -> float:
    """Return the objective's value; PuLP has none for an empty one, which costs nothing."""
    return float(pulp.value(program.objective) or 0.0)
