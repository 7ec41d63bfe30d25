"""How much less an old update counts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.scheduling.staleness import Constant, Hinge, Polynomial

ages = st.integers(min_value=0, max_value=100_000)


@given(ages, st.floats(min_value=0.01, max_value=10))
def test_a_polynomial_falls_with_every_version(age, exponent):
    """Each further version lowers the factor, and none raises it above 1 or to 0."""
    weight = Polynomial(exponent=exponent).weight
    assert 1 >= weight(age) > weight(age + 1) > 0


@given(ages, st.floats(min_value=0.01, max_value=100))
def test_a_hinge_without_grace_falls_with_every_version(age, slope):
    """So it may be used where a strict fall is asked for."""
    hinge = Hinge(slope=slope)
    assert hinge.is_strictly_decreasing
    assert 1 >= hinge.weight(age) > hinge.weight(age + 1) > 0


def test_the_functions_have_their_published_values():
    """1 / sqrt(1 + 3); 1 within the grace of 2, then 1 / (1 + 0.5 * 4); 1."""
    assert Polynomial(exponent=0.5).weight(3) == pytest.approx(0.5)
    hinge = Hinge(slope=0.5, grace=2)
    assert [hinge.weight(age) for age in (0, 2, 6)] == pytest.approx([1, 1, 1 / 3])
    assert not hinge.is_strictly_decreasing
    assert Constant().weight(9) == 1
    assert not Constant().is_strictly_decreasing
