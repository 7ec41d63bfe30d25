"""A change of basis against full matrices: turned back, and what was remembered carried over."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.bases import carried_over, turned_towards
from finetune.factors import Factors
from finetune.low_rank import best_rank, decompose

sizes = st.integers(2, 8)


def draw(seed, outputs, inputs, rank, *, scale=2.0):
    """Return seeded factors of full rank, the smaller size permitting."""
    generator = np.random.default_rng(seed)
    return Factors(
        generator.normal(size=(outputs, rank)), generator.normal(size=(rank, inputs)), scale
    )


def product(factors):
    """Return the full matrix."""
    return factors.scale * np.asarray(factors.up_MR, np.float64) @ factors.down_RN


def plus(factors, change):
    """Return the factors with a change of them."""
    return Factors(factors.up_MR + change.up_MR, factors.down_RN + change.down_RN, factors.scale)


def rotation(seed, rank):
    """Return a seeded orthogonal matrix."""
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(rank, rank)))[0]


def distance(factors, other):
    """Return how far the entries are apart."""
    return np.hypot(
        np.linalg.norm(factors.up_MR - other.up_MR),
        np.linalg.norm(factors.down_RN - other.down_RN),
    )


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 99))
def test_a_rotation_is_turned_back_exactly(outputs, inputs, rank, seed):
    """Whatever rotation the new factors are in, the old ones return."""
    rank = min(rank, outputs, inputs)
    old, turn = draw(seed, outputs, inputs, rank), rotation(seed + 1, rank)
    turned = Factors(old.up_MR @ turn, turn.T @ old.down_RN, old.scale)
    back = turned_towards(turned, old)
    np.testing.assert_allclose(back.up_MR, old.up_MR, atol=1e-9)
    np.testing.assert_allclose(back.down_RN, old.down_RN, atol=1e-9)


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 99))
def test_turning_keeps_the_product_and_no_rotation_is_nearer(outputs, inputs, rank, seed):
    """The product is to the last digits the same; twenty drawn rotations all lie farther."""
    old, new = draw(seed, outputs, inputs, rank), draw(seed + 1, outputs, inputs, rank)
    turned = turned_towards(new, old)
    np.testing.assert_allclose(product(turned), product(new), atol=1e-9)
    for number in range(20):
        other = rotation(number, rank)
        drawn = Factors(new.up_MR @ other, other.T @ new.down_RN, new.scale)
        assert distance(turned, old) <= distance(drawn, old) + 1e-9


def test_factors_of_zeros_turn_to_something_finite():
    """A first round with B zero, or an adapter of zeros, has no direction to turn to."""
    zero = Factors(np.zeros((4, 2)), np.zeros((2, 3)), 1.0)
    assert np.isfinite(turned_towards(zero, zero).up_MR).all()
    with pytest.raises(ValueError, match="rank 2 cannot be turned towards rank 3"):
        turned_towards(zero, draw(0, 4, 3, 3))


@given(sizes, sizes, st.integers(1, 4), st.integers(0, 99))
def test_a_change_of_basis_keeps_what_was_left_over(outputs, inputs, rank, seed):
    """Carried through any well-conditioned basis the product's change is the same to second order.

    No change of basis leaves the change itself as it was.
    """
    rank = min(rank, outputs, inputs)
    old, leftover = draw(seed, outputs, inputs, rank), draw(seed + 1, outputs, inputs, rank)
    same = carried_over(leftover, old, old)
    condition = max(np.linalg.cond(old.up_MR), np.linalg.cond(old.down_RN))
    if condition > 500:  # beyond, directions are dropped on purpose
        return
    np.testing.assert_allclose(same.up_MR, leftover.up_MR, atol=1e-9 * condition)
    np.testing.assert_allclose(same.down_RN, leftover.down_RN, atol=1e-9 * condition)
    basis = rotation(seed + 2, rank) * np.linspace(0.5, 2.0, rank)
    new = Factors(old.up_MR @ basis, np.linalg.inv(basis) @ old.down_RN, old.scale)
    moved = plus(new, carried_over(leftover, old, new))
    expected = product(plus(old, leftover))
    np.testing.assert_allclose(product(moved), expected, rtol=0, atol=1e-7 * condition)


def test_a_squeeze_keeps_what_stood_on_the_kept_part():
    """Rank 4 to 2: a change of kept components survives, one of cut components does not."""
    full = best_rank(decompose(draw(0, 9, 7, 4)), 4, scale=2.0)
    new = Factors(full.up_MR[:, :2], full.down_RN[:2], full.scale)
    leftover = draw(1, 9, 7, 4)
    carried = carried_over(leftover, full, new)
    np.testing.assert_allclose(carried.up_MR, leftover.up_MR[:, :2], atol=1e-9)
    np.testing.assert_allclose(carried.down_RN, leftover.down_RN[:2], atol=1e-9)


def test_what_stood_on_nothing_is_lost_and_stays_finite():
    """With B zero nothing says where its columns went; A's change is carried all the same."""
    old = Factors(np.zeros((5, 2)), draw(0, 5, 4, 2).down_RN, 1.0)
    new = draw(1, 5, 4, 2)
    carried = carried_over(draw(2, 5, 4, 2), old, new)
    assert not carried.up_MR.any()
    assert np.isfinite(carried.down_RN).all()
