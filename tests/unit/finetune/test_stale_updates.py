"""Updates of old versions, counted by their products where the basis is gone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.aggregation import STRATEGIES, Aggregation
from finetune.factors import Adapter, Factors
from finetune.stale_updates import (
    apply_product_changes,
    next_version,
    product_change,
    stale_change,
)
from finetune.updates import Update

NAME = "base_model.model.q"
BEST_RANK = Aggregation(STRATEGIES["best-rank"], scale=2.0)
TURNED = replace(BEST_RANK, is_turned_back=True)


def draw(seed, rank, *, scale=2.0, shape=(7, 6)):
    """Return a seeded adapter of one module and a head."""
    generator = np.random.default_rng(seed)
    factors = Factors(
        generator.normal(size=(shape[0], rank)), generator.normal(size=(rank, shape[1])), scale
    )
    return Adapter({NAME: factors}, {"head": generator.normal(size=3).astype(np.float32)})


def product(adapter):
    """Return the module's full matrix."""
    factors = adapter.modules[NAME]
    return factors.scale * factors.up_MR @ factors.down_RN


def result(tensors, scale):
    """Return the full matrix of an adapter's tensors."""
    up, down = tensors[f"{NAME}.lora_B.weight"], tensors[f"{NAME}.lora_A.weight"]
    return scale * up.astype(np.float64) @ down


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_a_change_is_the_difference_of_the_products(rank, other, seed):
    """Ranks and scales of the two versions may differ: a squeeze may lie between."""
    trained, start = draw(seed, rank), draw(seed + 1, other, scale=0.5)
    change = product_change(trained, start)
    np.testing.assert_allclose(product(change), product(trained) - product(start), atol=1e-9)
    np.testing.assert_allclose(change.others["head"], trained.others["head"] - start.others["head"])


@given(st.floats(-1, 1), st.floats(-1, 1), st.integers(0, 99))
def test_stale_changes_add_up_to_the_nearest_of_the_rank(first, second, seed):
    """Against numpy's decomposition of the full sum; with room for it the sum is exact."""
    starts = [draw(seed, 1), draw(seed + 1, 2)]
    trained = [draw(seed + 2, 1), draw(seed + 3, 2)]
    changes = [product_change(t, s) for t, s in zip(trained, starts, strict=True)]
    for rank in (2, 6):
        current = draw(seed + 4, rank)
        tensors, error = apply_product_changes(current, changes, [first, second])
        wanted = product(current) + first * product(changes[0]) + second * product(changes[1])
        left, values, right = np.linalg.svd(wanted, full_matrices=False)
        best = (left[:, :rank] * values[:rank]) @ right[:rank]
        size = np.linalg.norm(wanted)
        np.testing.assert_allclose(result(tensors, 2.0), best, rtol=0, atol=1e-5 * size)
        lost = np.linalg.norm(values[rank:])
        np.testing.assert_allclose(error.absolute, lost, rtol=0, atol=1e-5 * size)
        head = current.others["head"] + first * changes[0].others["head"]
        head = head + second * changes[1].others["head"]
        np.testing.assert_allclose(tensors["head"], head, rtol=0, atol=1e-5)


def test_what_is_turned_back_stays_where_nothing_changes():
    """Factors too, once they are the balanced ones of their product."""
    tensors, _ = apply_product_changes(draw(0, 3), [], [], is_turned_back=True)
    again, error = next_version(tensors, [], [], TURNED, version=1)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(again[name], tensor, atol=1e-6)
    assert error.relative < 1e-6


def test_a_stale_update_of_a_higher_rank_counts_by_its_product():
    """By hand: begun at rank 2, merged with half its weight into a current version of rank 1."""
    down, up = f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"
    eye = np.eye(2, dtype=np.float32)
    start = {down: eye, up: np.float32([[1, 0], [0, 2], [0, 0]])}
    trained = {down: eye, up: np.float32([[9, 0], [0, 2], [0, 0]])}
    current = {down: np.float32([[1, 0]]), up: np.float32([[1], [0], [0]])}
    kept = stale_change(trained, start, BEST_RANK)
    assert {name: tensor.shape for name, tensor in kept.items()} == {down: (4, 2), up: (3, 4)}
    assert all(tensor.dtype == np.float32 for tensor in kept.values())
    # 2 * 1 at the first entry, and half of 2 * (9 - 1) more.
    tensors, error = next_version(current, [kept], [0.5], BEST_RANK, version=1)
    wanted = np.zeros((3, 2))
    wanted[0, 0] = 10
    np.testing.assert_allclose(result(tensors, 2.0), wanted, atol=1e-5)
    assert error.absolute < 1e-5


def test_a_version_is_cut_to_the_rank_of_its_round():
    """The second component of 2 * (2, 1) goes, and is the error; a later one has no lower rank."""
    down, up = f"{NAME}.lora_A.weight", f"{NAME}.lora_B.weight"
    eye = np.eye(2, dtype=np.float32)
    current = {down: eye, up: np.zeros((2, 2), np.float32)}
    trained = {down: eye, up: np.diag(np.float32([2, 1]))}
    falling = replace(BEST_RANK, rank_of_round=lambda number: 2 if number < 3 else 1)
    kept = stale_change(trained, current, falling)
    whole, error = next_version(current, [kept], [1.0], falling, version=1)
    assert whole[down].shape == (2, 2)
    assert error.absolute < 1e-5
    cut, error = next_version(current, [kept], [1.0], falling, version=2)
    np.testing.assert_allclose(result(cut, 2.0), np.diag([4.0, 0.0]), atol=1e-5)
    assert cut[down].shape == (1, 2)
    assert error.absolute == pytest.approx(2, abs=1e-5)
    assert error.relative == pytest.approx(2 / np.hypot(4, 2), abs=1e-5)


@pytest.mark.parametrize("name", ["fedavg", "best-rank", "flora"])
def test_whole_weights_of_fresh_updates_give_the_mean_of_a_round(name):
    """Where nothing is stale, shares of the examples make of changes what synchronous rounds make."""
    generator = np.random.default_rng(0)
    shapes = {f"{NAME}.lora_A.weight": (2, 6), f"{NAME}.lora_B.weight": (7, 2), "head": (3,)}
    start, *trained = (
        {key: generator.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
        for _ in range(4)
    )
    aggregation = Aggregation(STRATEGIES[name], scale=2.0)
    changes = [stale_change(one, start, aggregation) for one in trained]
    tensors, _ = next_version(start, changes, [0.5, 0.25, 0.25], aggregation, version=1)
    updates = [
        Update(f"client {n}", one, examples, 1.0, 0)
        for n, (one, examples) in enumerate(zip(trained, (2, 1, 1), strict=True))
    ]
    wanted, _ = aggregation.combine(updates, like=start, round_number=1)
    np.testing.assert_allclose(result(tensors, 2.0), result(wanted, 2.0), atol=1e-4)
    np.testing.assert_allclose(tensors["head"], wanted["head"], atol=1e-6)


def test_each_change_has_a_weight():
    """A missing weight is the caller's mistake."""
    with pytest.raises(ValueError, match="0 weights for 1 changes"):
        apply_product_changes(draw(0, 1), [product_change(draw(1, 1), draw(2, 1))], [])
