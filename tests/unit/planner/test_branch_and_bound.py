"""Our branch and bound against enumeration, and what it leaves behind where it gives up."""

import itertools

import highspy
import numpy as np
import pytest

from planner import branch_and_bound
from planner.branch_and_bound import minimise_whole

MOST = 4


def _program(seed):
    """Return costs (3,), a matrix (4, 3) and the least of its rows (4,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, 3), rng.integers(-2, 7, (4, 3)), rng.integers(1, 25, 4)


def _model(costs, matrix, least):
    model = highspy.Highs()
    model.setOptionValue("output_flag", False)
    for cost in costs:
        model.addCol(float(cost), 0.0, float(MOST), 0, [], [])
        model.changeColIntegrality(model.getNumCol() - 1, highspy.HighsVarType.kInteger)
    for row, low in zip(matrix, least, strict=True):
        used = np.flatnonzero(row).astype(np.int32)
        model.addRow(float(low), highspy.kHighsInf, len(used), used, row[used].astype(float))
    return model


def _served(matrix, least):
    points = np.array(list(itertools.product(range(MOST + 1), repeat=3)))
    return points[(points @ matrix.T >= least).all(axis=1)]


def _enumerated(costs, matrix, least):
    served = _served(matrix, least)
    return float((served @ costs).min()) if len(served) else None


def _objective(model):
    return model.getInfo().objective_function_value


def test_the_optimum_is_the_enumerated_one():
    """On random programs, with and without a solution."""
    found = []
    for seed in range(200):
        costs, matrix, least = _program(seed)
        model, cheapest = _model(costs, matrix, least), _enumerated(costs, matrix, least)
        optimum = minimise_whole(model, range(3))
        assert (optimum is not None) == (cheapest is not None), seed
        found.append(cheapest)
        if cheapest is not None:
            values = np.array(model.getSolution().col_value)
            assert _objective(model) == pytest.approx(cheapest, abs=1e-6), seed
            assert values == pytest.approx(np.round(values), abs=1e-9)
            assert (matrix @ values >= least - 1e-6).all()
    assert 20 < found.count(None) < 180


def test_the_only_optimum_is_known_as_such():
    """Of random programs, some have several points as cheap and some have one."""
    found = []
    for seed in range(200):
        costs, matrix, least = _program(seed)
        optimum = minimise_whole(_model(costs, matrix, least), range(3))
        if optimum is not None:
            prices = _served(matrix, least) @ costs
            assert optimum.is_unique == (np.sum(prices == prices.min()) == 1), seed
            found.append(optimum.is_unique)
    assert 10 < sum(found) < len(found) - 10


def _slow(model, *, after):
    """Let the model's programs end at the time limit from the one of that number on."""
    solve, runs = model.getModelStatus, iter(range(1000))

    class Slow:
        def __getattr__(self, name):
            return getattr(model, name)

        def getModelStatus(self):
            return highspy.HighsModelStatus.kTimeLimit if next(runs) >= after else solve()

    return Slow()


@pytest.mark.parametrize("after", range(4))
def test_a_program_that_comes_to_no_end_proves_nothing(after):
    """A node that was not solved is not one without a solution: the search gives up."""
    proven = 0
    for seed in range(60):
        model = _model(*_program(seed))
        if minimise_whole(_slow(model, after=after), range(3)) is None:
            continue
        assert _objective(model) == pytest.approx(_enumerated(*_program(seed)), abs=1e-6), seed
        proven += 1
    assert proven < 60


def test_the_time_limit_holds_for_both_searches():
    """What ours spends is taken from what HiGHS's may; ours takes a part only."""
    model = _model(*_program(3))
    model.setOptionValue("time_limit", 1e-9)
    assert minimise_whole(model, range(3)) is None
    assert model.getOptionValue("time_limit")[1] == branch_and_bound.LEAST_SECONDS


def test_giving_up_leaves_the_model_as_it_was(monkeypatch):
    """HiGHS's own search then finds the optimum, with whole values, within the first bounds."""
    monkeypatch.setattr(branch_and_bound, "MOST_PROGRAMS", 2)
    given_up = 0
    for seed in range(60):
        costs, matrix, least = _program(seed)
        model, cheapest = _model(costs, matrix, least), _enumerated(costs, matrix, least)
        presolve = model.getOptionValue("presolve")
        if cheapest is None or minimise_whole(model, range(3)) is not None:
            continue
        given_up += 1
        assert model.getOptionValue("presolve") == presolve
        model.run()
        assert _objective(model) == pytest.approx(cheapest, abs=1e-6), seed
    assert given_up > 10
