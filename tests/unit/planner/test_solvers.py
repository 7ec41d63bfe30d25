"""The chain of solvers, with fakes in the solvers' place."""

import logging

import pulp
import pytest
from fleet_files import stated
from fleet_programs import melange_program, one_model

from planner.errors import SolverError
from planner.fleet.fleet_config import FleetConfig
from planner.fleet.plan import Search, plan_fleet
from planner.fleet_program.solve import solve
from planner.solvers import Answer, Highs, SolverChain


class Broken:
    """A solver that is not there."""

    name = "broken"

    def minimise(self, program, *, time_limit_seconds, gap_fraction):
        raise SolverError("broken is not installed")


class Slow:
    """A solver that finds nothing in time."""

    name = "slow"

    def minimise(self, program, *, time_limit_seconds, gap_fraction):
        return Answer("time_limit", float("-inf"), self.name)


class Inexact:
    """A solver whose integers lie a little below whole numbers, and whose bound is loose."""

    name = "inexact"

    def __init__(self, *, short_by=0.0, bound_factor=1.0):
        self.short_by = short_by
        self.bound_factor = bound_factor

    def minimise(self, program, *, time_limit_seconds, gap_fraction):
        answer = Highs().minimise(
            program, time_limit_seconds=time_limit_seconds, gap_fraction=gap_fraction
        )
        for variable in program.variables():
            if variable.cat == pulp.LpInteger:
                variable.varValue -= self.short_by
        return Answer(answer.verdict, answer.bound * self.bound_factor, self.name)


def _solved(chain, problem):
    return solve(problem, solver=chain, time_limit_seconds=9, gap_fraction=0, clock=lambda: 0.0)


def test_a_fallback_is_counted_and_logged(caplog):
    """Where the first solver breaks down the next one answers, and both facts can be seen."""
    chain = SolverChain([Broken(), Highs()])
    with caplog.at_level(logging.WARNING, logger="planner.solvers"):
        found = _solved(chain, melange_program())
    assert found.counts == (1, 1)
    assert found.solver == "HiGHS"
    assert chain.num_fallbacks > 0
    assert "solver_failed solver=broken reason=broken is not installed" in caplog.text


def test_fallbacks_stand_in_the_plan():
    """The document counts how often a later solver had to answer."""
    search = Search(solver=SolverChain([Broken(), Highs()]))
    plan = plan_fleet(FleetConfig.model_validate(stated()), search=search).plan
    assert plan.solver_fallbacks > 0
    assert plan.solver == "HiGHS"


def test_no_working_solver_is_an_error():
    """The last solver's breakdown reaches the caller."""
    with pytest.raises(SolverError, match="not installed"):
        _solved(SolverChain([Broken()]), melange_program())


def test_a_chain_needs_a_solver():
    """An empty chain is the caller's mistake."""
    with pytest.raises(ValueError, match="no solver"):
        SolverChain([])


@pytest.mark.parametrize("short_by", [1e-7, 1e-4])
def test_integers_are_rounded_not_truncated(short_by):
    """A solver's 3.9999 is 4 replicas."""
    found = _solved(SolverChain([Inexact(short_by=short_by)]), one_model([4.0], [(1.0, [1.0])]))
    assert found.counts == (4,)


def test_an_open_gap_is_feasible_not_optimal():
    """A bound below the cost makes the plan feasible, with its gap."""
    found = _solved(SolverChain([Inexact(bound_factor=0.5)]), melange_program())
    assert found.status == "feasible"
    assert found.gap_fraction == pytest.approx(0.5)


def test_finding_nothing_in_time_is_an_outcome():
    """No plan and no proof gives the status time_limit and a reason that says what to do."""
    search = Search(solver=SolverChain([Slow()]), time_limit_seconds=2)
    outcome = plan_fleet(FleetConfig.model_validate(stated()), search=search)
    assert (outcome.status, outcome.plan) == ("time_limit", None)
    assert outcome.reason == "no plan was found within 2 s; raise the time limit"
