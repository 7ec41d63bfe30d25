"""Non-negative least squares against scipy's."""

import random

import pytest
from scipy.optimize import nnls

from planner.profiling.nonnegative_fit import nonnegative_fit


@pytest.mark.parametrize("seed", range(60))
def test_it_fits_as_well_as_scipy(seed):
    """On random systems of any scale, fat or thin, the residual is the least there is."""
    draws = random.Random(seed)
    num_rows, num_unknowns = draws.randint(1, 14), draws.randint(1, 7)
    scales = [10.0 ** draws.randint(-6, 6) for _ in range(num_unknowns)]
    lowest = 0.0 if seed % 2 else -1.0
    rows = [[draws.uniform(lowest, 1) * s for s in scales] for _ in range(num_rows)]
    values = [draws.uniform(lowest, 1) for _ in range(num_rows)]
    found = nonnegative_fit(rows, values)
    assert min(found) >= 0
    residuals = [
        sum(a * x for a, x in zip(row, found, strict=True)) - value
        for row, value in zip(rows, values, strict=True)
    ]
    least = nnls(rows, values)[1]
    assert sum(each**2 for each in residuals) ** 0.5 == pytest.approx(least, abs=1e-8)


def test_exact_systems_are_solved():
    """Where unknowns above zero reproduce the values, they are found."""
    assert nonnegative_fit([[1, 2], [3, 1], [1, 1]], [8, 9, 5]) == pytest.approx([2, 3])


def test_what_would_be_negative_is_zero():
    """The rest is fitted without it."""
    assert nonnegative_fit([[1, 0], [0, 1]], [3, -2]) == pytest.approx([3, 0])


@pytest.mark.parametrize(("rows", "values"), [([], []), ([[1]], [1, 2]), ([[1], [1, 2]], [1, 2])])
def test_systems_of_no_shape_are_refused(rows, values):
    """A caller's mistake is named."""
    with pytest.raises(ValueError, match="give equal rows, one a value"):
        nonnegative_fit(rows, values)
