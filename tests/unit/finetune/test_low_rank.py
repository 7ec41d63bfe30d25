"""Thin algebra against the full matrices it avoids."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.factors import Factors
from finetune.low_rank import (
    best_rank,
    decompose,
    difference_norm,
    frobenius_norm,
    stacked,
)


def draw(seed, outputs, inputs, rank, *, scale=1.0):
    """Return seeded factors."""
    generator = np.random.default_rng(seed)
    return Factors(
        generator.normal(size=(outputs, rank)), generator.normal(size=(rank, inputs)), scale
    )


def product(factors):
    """Return the full matrix."""
    return factors.scale * np.asarray(factors.up_MR, np.float64) @ factors.down_RN


def truncated(matrix, rank):
    """Return the best approximation by numpy's full decomposition."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


sizes = st.integers(1, 9)


@given(sizes, sizes, sizes, sizes, st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 99))
def test_no_matrix_of_the_rank_is_nearer(outputs, inputs, rank, target, scale, to, seed):
    """Any shape, rank and scale, up or down: the result is numpy's truncated decomposition."""
    factors = draw(seed, outputs, inputs, rank, scale=scale)
    result = best_rank(decompose(factors), target, scale=to)
    assert result.up_MR.shape == (outputs, target)
    assert result.down_RN.shape == (target, inputs)
    expected = truncated(product(factors), target)
    size = np.linalg.norm(product(factors))
    np.testing.assert_allclose(product(result), expected, rtol=0, atol=1e-9 * size)


@given(sizes, sizes, sizes, st.integers(1, 9), st.integers(0, 99))
def test_spare_components_can_be_trained(outputs, inputs, rank, target, seed):
    """Where the product has a lower rank, B is zero and A is not, nor is it a copy of other rows."""
    result = best_rank(decompose(draw(seed, outputs, inputs, rank)), target, scale=1.0)
    spare = min(rank, outputs, inputs)
    assert not result.up_MR[:, spare:].any()
    assert (np.linalg.norm(result.down_RN, axis=1) > 0).all()
    rows = result.down_RN[: min(target, inputs)]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-7)


def test_a_zero_product_stays_zero_and_trainable():
    """Before the first training B is zero: no division, and A is kept off zero."""
    factors = Factors(np.zeros((5, 2)), np.ones((2, 4)), scale=2.0)
    result = best_rank(decompose(factors), 3, scale=1.0)
    assert not result.up_MR.any()
    np.testing.assert_allclose(result.down_RN @ result.down_RN.T, np.eye(3), atol=1e-12)


def test_the_result_is_the_same_at_every_call():
    """No hidden draw: spare rows come out bit for bit equal."""
    spectrum = decompose(draw(1, 6, 7, 2))
    first, second = (best_rank(spectrum, 5, scale=1.0) for _ in range(2))
    assert np.array_equal(first.down_RN, second.down_RN)


def test_factors_share_the_singular_values_or_leave_them_to_b():
    """The scale is inside the factors; columns of B and rows of A have equal or unit norms."""
    spectrum = decompose(draw(2, 6, 8, 4, scale=3.0))
    shared = best_rank(spectrum, 3, scale=0.5)
    norms = np.linalg.norm(shared.down_RN, axis=1)
    np.testing.assert_allclose(np.linalg.norm(shared.up_MR, axis=0), norms)
    np.testing.assert_allclose(0.5 * norms**2, spectrum.values_K[:3])
    turned = best_rank(spectrum, 3, scale=0.5, is_down_orthonormal=True)
    np.testing.assert_allclose(turned.down_RN @ turned.down_RN.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(product(turned), product(shared), atol=1e-12)


def test_leading_components_are_the_best_of_the_lower_rank():
    """A client of lower rank takes the first components of the server's result."""
    factors = draw(3, 9, 7, 5)
    result = best_rank(decompose(factors), 4, scale=1.0)
    first = Factors(result.up_MR[:, :2], result.down_RN[:2], result.scale)
    np.testing.assert_allclose(product(first), truncated(product(factors), 2), atol=1e-12)


@given(st.lists(st.tuples(sizes, st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=4))
def test_the_stack_is_the_weighted_sum_of_products(clients):
    """Ranks, scales and weights differ; weight and scale count once."""
    factors = [draw(i, 6, 5, rank, scale=scale) for i, (rank, scale, _) in enumerate(clients)]
    weights = [weight for _, _, weight in clients]
    expected = sum(w * product(f) for w, f in zip(weights, factors, strict=True))
    np.testing.assert_allclose(product(stacked(factors, weights)), expected, atol=1e-10)


def test_norms_are_those_of_the_full_matrices():
    """Of a product and of a difference of products with different ranks and scales."""
    first, second = draw(4, 6, 8, 3, scale=2.0), draw(5, 6, 8, 7, scale=0.1)
    assert frobenius_norm(first) == pytest.approx(np.linalg.norm(product(first)))
    expected = np.linalg.norm(product(first) - product(second))
    assert difference_norm(first, second) == pytest.approx(expected)


def test_a_difference_near_zero_is_not_lost():
    """Two expressions of one product differ by rounding only, which traces of squares would blur."""
    first = draw(6, 40, 30, 4)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    second = Factors(first.up_MR @ turn, turn.T @ first.down_RN, first.scale)
    assert difference_norm(first, second) < 1e-13 * frobenius_norm(first)


def test_what_only_rounding_tells_apart_is_no_component():
    """Columns of B that float32 alone keeps from being multiples of one are one component."""
    generator = np.random.default_rng(7)
    multiples = generator.normal(size=(40, 1)) * generator.normal(size=(1, 3))
    rounded = Factors(multiples.astype(np.float32), draw(8, 1, 30, 3).down_RN, 2.0)
    spectrum = decompose(rounded)
    assert spectrum.values_K[1] > 1e-9 * spectrum.values_K[0]
    assert spectrum.num_nonzero == 1
    assert not best_rank(spectrum, 3, scale=1.0).up_MR[:, 1:].any()
    in_float32 = Factors(rounded.up_MR, rounded.down_RN.astype(np.float32), 2.0)
    assert decompose(stacked([in_float32, in_float32], [0.5, 0.5])).num_nonzero == 1
    small = Factors(np.diag([1.0, 1e-9]), np.eye(2), 1.0)
    assert decompose(small).num_nonzero == 2


@pytest.mark.parametrize(("rank", "scale"), [(0, 1.0), (1, 0.0), (1, -1.0)])
def test_a_rank_or_scale_of_zero_is_the_callers_mistake(rank, scale):
    """Both must be positive."""
    with pytest.raises(ValueError, match="both must be positive"):
        best_rank(decompose(draw(0, 3, 3, 2)), rank, scale=scale)
