"""The chain of solvers, with fakes in the solvers' place."""

import logging

import pulp
import pytest
from fleet_instances import fleet_problem, melange_problem
from planner.ilp import cheapest_counts

from planner.errors import SolverError
from planner.fleet_config import FleetConfig
from planner.plan import plan_fleet
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


def _counts_by(solver, problem):
    return cheapest_counts(
        problem, SolverChain([solver]), time_limit_seconds=9, gap_fraction=0, clock=lambda: 0.0
    )


def test_a_fallback_is_counted_and_logged(caplog):
    """Where the first solver breaks down the next one answers, and both facts can be seen."""
    chain = SolverChain([Broken(), Highs()])
    with caplog.at_level(logging.WARNING, logger="planner.solvers"):
        found = cheapest_counts(
            melange_problem(), chain, time_limit_seconds=9, gap_fraction=0, clock=lambda: 0.0
        )
    assert found.counts == (1, 1)
    assert found.solver == "HiGHS"
    assert chain.num_fallbacks == 2
    assert "solver_failed solver=broken" in caplog.text


def test_no_working_solver_is_an_error():
    """The last solver's breakdown reaches the caller."""
    with pytest.raises(SolverError, match="not installed"):
        _counts_by(Broken(), melange_problem())


def test_a_chain_needs_a_solver():
    """An empty chain is the caller's mistake."""
    with pytest.raises(ValueError, match="no solver"):
        SolverChain([])


@pytest.mark.parametrize("short_by", [1e-7, 1e-4])
def test_integers_are_rounded_not_truncated(short_by):
    """A solver's 3.9999 is 4 replicas."""
    found = _counts_by(Inexact(short_by=short_by), fleet_problem([4.0], [(1.0, [1.0])]))
    assert found.counts == (4,)


def test_an_open_gap_is_feasible_not_optimal():
    """A bound below the cost makes the plan feasible, with its gap."""
    found = _counts_by(Inexact(bound_factor=0.5), melange_problem())
    assert found.status == "feasible"
    assert found.gap_fraction == pytest.approx(0.5)


def test_finding_nothing_in_time_is_an_outcome():
    """No plan and no proof gives the status time_limit and a reason that says what to do."""
    config = FleetConfig.model_validate(
        {
            "model": "m",
            "workload": {
                "input_tokens_up_to": [1],
                "output_tokens_up_to": [1],
                "rates_requests_per_second": [[3]],
            },
            "offers": [
                {"name": "a", "price_usd_per_hour": 1, "throughput_requests_per_second": [[2]]}
            ],
        }
    )
    outcome = plan_fleet(config, solver=SolverChain([Slow()]), time_limit_seconds=2)
    assert (outcome.status, outcome.plan) == ("time_limit", None)
    assert outcome.reason == "no plan was found within 2 s; raise the time limit"
