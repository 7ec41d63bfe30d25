"""Every aggregation: hand-computed clients, what all must hold, and what each promises."""

import itertools
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from finetune.aggregation import STRATEGIES, Contribution, aggregate
from finetune.config import AggregationName
from finetune.factors import Adapter, Factors, paired
from finetune.strategies.lora_fair import lora_fair, lora_fair_cosine
from finetune.strategies.strategy import Target

MODULE = "base_model.model.q"
EXACT = ("ffa", "fedsvd")
"""Exact whenever A is frozen."""
SHAPES = [(6, 4, 2), (3, 7, 3), (8, 3, 3), (3, 3, 3), (5, 9, 1)]
"""Outputs, inputs, rank: not square, and as narrow as the rank on either side."""


def clients_of(name, shape, *, seed=0, ranks=None, scales=(2.0, 2.0, 2.0), is_first=False):
    """Return three clients' factors as they come back under this aggregation."""
    outputs, inputs, rank = shape
    generator = np.random.default_rng(seed)
    down_RN = generator.normal(size=(rank, inputs)).astype(np.float32)
    clients = []
    for own, scale in zip(ranks or (rank,) * 3, scales, strict=True):
        up_MR = generator.normal(size=(outputs, own)).astype(np.float32)
        moved = down_RN[:own] + generator.normal(size=(own, inputs)).astype(np.float32)
        down = down_RN[:own] if STRATEGIES[name].is_down_frozen else moved
        clients.append(Factors(up_MR * (not is_first), down, scale))
    return clients


def run(name, clients, weights=(1, 2, 3), *, rank=None, scale=2.0):
    """Return one module's aggregated factors in the server's form, and the error."""
    rank = rank or max(factors.rank for factors in clients)
    outputs, inputs = len(clients[0].up_MR), clients[0].down_RN.shape[1]
    like = Factors(np.zeros((outputs, rank), np.float32), np.zeros((rank, inputs)), scale)
    tensors, error = aggregate(
        [
            Contribution(Adapter({MODULE: factors}, {}), weight)
            for factors, weight in zip(clients, weights, strict=True)
        ],
        STRATEGIES[name],
        like=Adapter({MODULE: like}, {}),
    )
    up_MR, down_RN = tensors[f"{MODULE}.lora_B.weight"], tensors[f"{MODULE}.lora_A.weight"]
    assert (up_MR.shape, down_RN.shape) == ((outputs, rank), (rank, inputs))
    assert up_MR.dtype == down_RN.dtype == np.float32
    return Factors(up_MR, down_RN, scale), error


def product(factors):
    """Return the full matrix."""
    return factors.scale * np.asarray(factors.up_MR, np.float64) @ factors.down_RN


def mean_product(clients, weights=(1, 2, 3)):
    """Return the matrix every aggregation aims at."""
    return sum(w * product(c) for w, c in zip(weights, clients, strict=True)) / sum(weights)


def test_the_configuration_names_every_strategy():
    """What a job may ask for is what there is."""
    assert set(get_args(AggregationName)) == set(STRATEGIES)


def test_three_clients_by_hand():
    """Weights 1/4, 1/2, 1/4 and scales 2, 1, 4, worked out on paper for each method."""
    ups = [[[4.0], [0.0]], [[0.0], [2.0]], [[8.0], [4.0]]]
    scales = (2.0, 1.0, 4.0)
    same = [
        Factors(np.array(up), np.array([[1.0, 0.0, -1.0]]), scale)
        for up, scale in zip(ups, scales, strict=True)
    ]
    wanted = np.array([[10.0, 0.0, -10.0], [5.0, 0.0, -5.0]])
    np.testing.assert_allclose(mean_product(same, (1, 2, 1)), wanted)
    for name in STRATEGIES:
        result, error = run(name, same, (1, 2, 1), scale=2.0)
        np.testing.assert_allclose(product(result), wanted, rtol=1e-6, atol=1e-6)
        assert error.relative < 1e-6, name
    mean, _ = run("fedavg", same, (1, 2, 1), scale=2.0)
    np.testing.assert_allclose(mean.up_MR, [[5.0], [2.5]])
    np.testing.assert_allclose(mean.down_RN, [[1.0, 0.0, -1.0]])
    turned, _ = run("fedsvd", same, (1, 2, 1), scale=2.0)
    np.testing.assert_allclose(np.abs(turned.down_RN), [[0.5**0.5, 0.0, 0.5**0.5]], atol=1e-7)


def test_least_squares_correction_by_hand():
    """Rank 1: A is [1, 1] in the mean, and B moves by E A^T / (A A^T + l)."""
    clients = [
        Factors(np.array([[2.0]]), np.array([[2.0, 0.0]]), 1.0),
        Factors(np.array([[4.0]]), np.array([[0.0, 2.0]]), 1.0),
    ]
    # Mean product [2, 4], means 3 * [1, 1]; the bias [-1, 1] is orthogonal to the mean A.
    result = lora_fair(clients, np.array([0.5, 0.5]), Target(1, 1.0), penalty=0.5)
    np.testing.assert_allclose(result.up_MR, [[3.0]])
    clients[1] = Factors(np.array([[4.0]]), np.array([[2.0, 4.0]]), 1.0)
    # Mean product [6, 8], A [2, 2], E = [6, 8] - 3 * [2, 2] = [0, 2], l = 0.5 * 8.
    result = lora_fair(clients, np.array([0.5, 0.5]), Target(1, 1.0), penalty=0.5)
    np.testing.assert_allclose(result.up_MR, [[3.0 + 4.0 / (8.0 + 4.0)]])
    np.testing.assert_allclose(result.down_RN, [[2.0, 2.0]])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_order_and_size_of_weights_do_not_matter(name, shape):
    """Any permutation of the clients, and any multiple of the weights, gives one product."""
    clients = clients_of(name, shape, scales=(2.0, 0.5, 3.0))
    expected = product(run(name, clients)[0])
    size = np.linalg.norm(expected)
    for order in itertools.permutations(range(3)):
        mixed = [clients[i] for i in order]
        for factor in (1, 1000):
            result, _ = run(name, mixed, [factor * (i + 1) for i in order])
            np.testing.assert_allclose(product(result), expected, rtol=0, atol=2e-6 * size)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_clients_that_agree_are_followed(name, shape):
    """Equal clients are their own mean, whatever the weights."""
    clients = [clients_of(name, shape)[0]] * 3
    result, error = run(name, clients)
    expected = product(clients[0])
    np.testing.assert_allclose(
        product(result), expected, rtol=0, atol=1e-6 * np.linalg.norm(expected)
    )
    assert error.relative < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_first_round_with_b_zero_is_zero_and_trainable(name, shape):
    """No division by a zero norm, no singular solve: B is zero, A is not, the error is none."""
    result, error = run(name, clients_of(name, shape, is_first=True))
    assert not result.up_MR.any()
    assert (np.linalg.norm(result.down_RN, axis=1) > 0).all()
    assert (error.absolute, error.relative) == (0.0, 0.0)


@pytest.mark.parametrize("name", STRATEGIES)
def test_an_adapter_of_zeros_stays_finite(name):
    """Even with A zero everywhere nothing divides by it."""
    zero = [Factors(np.zeros((5, 2)), np.zeros((2, 4)), 1.0)] * 3
    result, _ = run(name, zero)
    assert np.isfinite(result.up_MR).all()
    assert np.isfinite(result.down_RN).all()
    assert not product(result).any()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("shape", SHAPES)
def test_frozen_a_makes_the_mean_exact(name, shape):
    """With one A for all, whatever the scales and ranks of the clients."""
    ranks = (shape[2], 1, shape[2])
    clients = clients_of(name, shape, ranks=ranks, scales=(2.0, 0.5, 3.0))
    result, error = run(name, clients)
    wanted = mean_product(clients)
    np.testing.assert_allclose(product(result), wanted, rtol=0, atol=1e-6 * np.linalg.norm(wanted))
    assert error.relative < 1e-6


@pytest.mark.parametrize("name", EXACT)
def test_frozen_a_that_differs_is_refused(name):
    """A client with another A is a mistake that no shape would show."""
    clients = clients_of(name, (6, 4, 2))
    clients[1] = replace(clients[1], down_RN=clients[1].down_RN + 1)
    with pytest.raises(ValueError, match="lora_A differ"):
        run(name, clients)


@pytest.mark.parametrize("name", ["best-rank", "flora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_of_its_rank_is_the_truncated_mean(name, shape):
    """Different ranks and scales in one round: numpy's decomposition of the full mean agrees."""
    clients = clients_of(name, shape, ranks=(1, shape[2], shape[2]), scales=(1.0, 0.5, 3.0))
    wanted = mean_product(clients)
    left, values, right = np.linalg.svd(wanted, full_matrices=False)
    best = (left[:, : shape[2]] * values[: shape[2]]) @ right[: shape[2]]
    result, error = run(name, clients)
    size = np.linalg.norm(wanted)
    np.testing.assert_allclose(product(result), best, rtol=0, atol=1e-6 * size)
    lost = np.linalg.norm(values[shape[2] :])
    assert error.absolute == pytest.approx(lost, abs=1e-6 * size)
    assert error.relative == pytest.approx(lost / size, abs=1e-6)
    cut = product(Factors(result.up_MR[:, :1], result.down_RN[:1], result.scale))
    np.testing.assert_allclose(
        cut, values[0] * np.outer(left[:, 0], right[0]), rtol=0, atol=1e-6 * size
    )


def test_a_stack_with_room_for_it_is_exact():
    """FLoRA at the sum of the ranks loses nothing; the best of a rank neither."""
    for name in ("flora", "best-rank"):
        clients = clients_of(name, (9, 8, 2), scales=(2.0, 0.5, 3.0))
        result, error = run(name, clients, rank=6)
        np.testing.assert_allclose(product(result), mean_product(clients), atol=1e-5)
        assert error.relative < 1e-6


@pytest.mark.parametrize("name", ["fedavg", "lora-fair", "lora-fair-cosine"])
def test_means_take_ranks_and_scales_that_differ(name):
    """A client of rank 1 and another alpha counts by its product, as if padded by hand."""
    clients = clients_of(name, (6, 5, 3), ranks=(1, 3, 3), scales=(6.0, 2.0, 2.0))
    padded = [clients[0].padded(3, scale=2.0), *clients[1:]]
    ours, by_hand = run(name, clients)[0].up_MR, run(name, padded)[0].up_MR
    np.testing.assert_allclose(ours, by_hand, rtol=1e-4)
    with pytest.raises(ValueError, match="rank 3 does not fit in 2"):
        run(name, clients, rank=2)


def test_a_correction_removes_the_bias_of_clients_in_different_bases():
    """One product in three bases: means are far off, the correction and the exact mean are not."""
    first = clients_of("fedavg", (12, 4, 4))[0]
    turns = [np.diag([1.0, 1.0, 1.0, scale]) for scale in (1.0, 2.0, 0.25)]
    clients = [
        Factors(first.up_MR @ turn, np.linalg.inv(turn) @ first.down_RN, first.scale)
        for turn in turns
    ]
    errors = {name: run(name, clients)[1].relative for name in STRATEGIES if name not in EXACT}
    assert errors["fedavg"] > 0.05
    assert errors["lora-fair"] < errors["fedavg"] / 5
    assert errors["lora-fair-cosine"] < errors["fedavg"] / 2
    assert errors["best-rank"] < 1e-6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 0.01, 10.0])
def test_the_cosine_objective_never_ends_above_its_start(seed, penalty):
    """The angle to the mean product shrinks; under a heavy penalty B stays with the mean."""
    clients = clients_of("fedavg", (9, 7, 3), seed=seed)
    weights = np.array([0.2, 0.3, 0.5])
    mean, _ = run("fedavg", clients, (2, 3, 5))
    result = lora_fair_cosine(clients, weights, Target(3, 2.0), penalty=penalty)
    wanted = mean_product(clients, (2, 3, 5))

    def cosine(factors):
        made = product(factors)
        return np.sum(wanted * made) / np.linalg.norm(wanted) / np.linalg.norm(made)

    assert cosine(result) >= cosine(mean) - 1e-6
    moved = np.linalg.norm(result.up_MR - mean.up_MR) / np.linalg.norm(mean.up_MR)
    assert penalty * moved <= 1 - cosine(mean) + 1e-6
    if penalty == 10.0:
        assert moved < 1e-6
    if penalty == 0.0:
        # At the optimum the product is the projection of the mean product on A's rows.
        rows = np.linalg.qr(result.down_RN.T)[0]
        onto = wanted @ rows
        assert cosine(result) == pytest.approx(np.linalg.norm(onto) / np.linalg.norm(wanted), 1e-4)


def test_means_that_cancel_leave_the_cosine_objective_where_it_began():
    """A product of zero has no angle; the search for one must end."""
    down_RN, up_MR = np.array([[1.0, 3.0]]), np.array([[0.1], [0.7]])
    clients = [
        Factors(np.hstack([up_MR, -up_MR]) * k, np.vstack([down_RN, down_RN]), 1.0) for k in (1, 2)
    ]
    result = lora_fair_cosine(clients, np.array([0.5, 0.5]), Target(2, 1.0))
    assert np.abs(result.up_MR @ result.down_RN).max() < 1e-12


def test_a_head_is_averaged():
    """What is no factor is not dropped."""
    head = "base_model.model.score.weight"
    contributions = [
        Contribution(Adapter({}, {head: np.full((2, 2), value, np.float32)}), weight)
        for value, weight in ((1.0, 1), (5.0, 3))
    ]
    tensors, error = aggregate(
        contributions, STRATEGIES["best-rank"], like=contributions[0].adapter
    )
    np.testing.assert_array_equal(tensors[head], np.full((2, 2), 4.0, np.float32))
    assert tensors[head].dtype == np.float32
    assert error.relative == 0.0
    assert paired(tensors, None).modules == {}
