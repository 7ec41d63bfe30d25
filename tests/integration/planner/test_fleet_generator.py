"""The benchmark's instances have plans, and taking one apart changes neither cost nor bound much."""

import time

import pytest
from benchmarks.fleet_generator import Shape, fleet_instance

from planner.fleet_program import decomposed, whole
from planner.fleet_program.problem import Rules
from planner.solvers import Highs, SolverChain


@pytest.mark.parametrize("kind", ["hardware", "scattered"])
@pytest.mark.parametrize("survives", [False, True])
def test_both_ways_bound_each_other(kind, survives):
    """The decomposition's bound is below the whole program's cost, and the other way round."""
    shape = Shape(25, inputs=6, outputs=2, offers=10, models=2, by_output=True, kind=kind)
    rules = Rules(survive_one_replica=survives)
    problem = fleet_instance(shape, seed=5, rules=rules)
    limits = {"time_limit_seconds": 30, "gap_fraction": 0.03, "clock": time.perf_counter}
    apart = decomposed.cheapest_counts(problem, **limits)
    one = whole.cheapest_counts(problem, SolverChain([Highs()]), **limits)
    assert apart.counts
    assert one.counts
    assert apart.bound_usd_per_hour <= one.cost_usd_per_hour * (1 + 1e-6)
    assert one.bound_usd_per_hour <= apart.cost_usd_per_hour * (1 + 1e-6)


def test_a_seed_is_an_instance():
    """The same seed gives the same problem, another seed another."""
    shape = Shape(60, inputs=4, outputs=2, offers=12, models=2)
    first = fleet_instance(shape, seed=1)
    assert first == fleet_instance(shape, seed=1)
    assert first != fleet_instance(shape, seed=2)
