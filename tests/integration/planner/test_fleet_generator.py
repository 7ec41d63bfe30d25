"""The benchmark's instances have plans, and taking one apart changes neither cost nor bound much."""

import importlib.util
import sys
import time
from pathlib import Path

import pytest

from planner.fleet_program import decomposed, whole
from planner.fleet_program.problem import Rules
from planner.solvers import Highs, SolverChain

PATH = Path(__file__).parents[2] / "benchmarks" / "fleet_generator.py"


@pytest.fixture(scope="module")
def generator():
    """Return the generator's module."""
    spec = importlib.util.spec_from_file_location("fleet_generator", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fleet_generator"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["fleet_generator"]


@pytest.mark.parametrize("kind", ["hardware", "scattered"])
@pytest.mark.parametrize("survives", [False, True])
def test_both_ways_bound_each_other(generator, kind, survives):
    """The decomposition's bound is below the whole program's cost, and the other way round."""
    shape = generator.Shape(25, inputs=6, outputs=2, offers=10, models=2, by_output=True, kind=kind)
    rules = Rules(survive_one_replica=survives)
    problem = generator.fleet_instance(shape, seed=5, rules=rules)
    limits = {"time_limit_seconds": 30, "gap_fraction": 0.03, "clock": time.perf_counter}
    apart = decomposed.cheapest_counts(problem, **limits)
    one = whole.cheapest_counts(problem, SolverChain([Highs()]), **limits)
    assert apart.counts
    assert one.counts
    assert apart.bound_usd_per_hour <= one.cost_usd_per_hour * (1 + 1e-6)
    assert one.bound_usd_per_hour <= apart.cost_usd_per_hour * (1 + 1e-6)


def test_a_seed_is_an_instance(generator):
    """The same seed gives the same problem, another seed another."""
    shape = generator.Shape(60, inputs=4, outputs=2, offers=12, models=2)
    first = generator.fleet_instance(shape, seed=1)
    assert first == generator.fleet_instance(shape, seed=1)
    assert first != generator.fleet_instance(shape, seed=2)
