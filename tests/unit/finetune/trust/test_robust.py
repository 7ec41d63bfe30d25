"""Aggregation with attackers among the clients."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.errors import CohortError
from finetune.trust.clip import clip
from finetune.trust.robust import (
    coordinate_median,
    multi_krum,
    squared_distances,
    trimmed_mean,
)


def krum(distances, *, num_attackers):
    """Return the one row that Krum keeps."""
    (row,) = multi_krum(distances, num_attackers=num_attackers, num_kept=1)
    return row


FIVE = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, -30.0], [4.0, 40.0], [100.0, 0.0]])


def test_the_median_is_each_entrys_own():
    """Of 1, 2, 3, 4, 100 it is 3; of 10, 20, -30, 40, 0 it is 10, another client's."""
    np.testing.assert_array_equal(coordinate_median(FIVE, num_attackers=2), [3, 10])


def test_the_trimmed_mean_leaves_out_both_ends():
    """Without the largest and the smallest: (2 + 3 + 4) / 3 and (0 + 10 + 20) / 3."""
    np.testing.assert_allclose(trimmed_mean(FIVE, num_attackers=1), [3, 10])
    np.testing.assert_allclose(trimmed_mean(FIVE, num_attackers=0), FIVE.mean(axis=0))


def test_krum_equals_hand_computed_scores():
    """At 0, 1, 3, 7, 50 with f = 1 each sums its two nearest squares: 10, 5, 13, 52, ...: 1 wins."""
    points = np.array([[0.0], [1.0], [3.0], [7.0], [50.0]])
    distances = squared_distances(points)
    assert krum(distances, num_attackers=1) == 1
    assert multi_krum(distances, num_attackers=1) == [0, 1]


def test_ties_go_to_the_first_client():
    """Identical clients: the choice does not depend on chance."""
    assert multi_krum(np.zeros((7, 7)), num_attackers=2, num_kept=2) == [0, 1]


def honest_and_attackers(num_honest, num_attackers):
    """Return honest changes around ones, with far-off ones between them."""
    generator = np.random.default_rng(7)
    honest = 1 + 0.1 * generator.normal(size=(num_honest, 50))
    return np.insert(honest, 1, np.full((num_attackers, 50), -1000.0), axis=0)


@pytest.mark.parametrize(
    "rule",
    [
        lambda rows: coordinate_median(rows, num_attackers=2),
        lambda rows: trimmed_mean(rows, num_attackers=2),
        lambda rows: rows[krum(squared_distances(rows), num_attackers=2)],
        lambda rows: rows[multi_krum(squared_distances(rows), num_attackers=2)].mean(axis=0),
    ],
    ids=["median", "trimmed mean", "Krum", "Multi-Krum"],
)
def test_planted_attackers_move_the_mean_but_not_the_rule(rule):
    """Two of nine send -1000: the mean lands near -221, every rule stays near 1."""
    rows = honest_and_attackers(7, 2)
    assert np.abs(rows.mean(axis=0) - 1).max() > 100
    assert np.abs(rule(rows) - 1).max() < 0.5


@pytest.mark.parametrize(
    ("rule", "num_clients", "words"),
    [
        (coordinate_median, 4, "needs 5 clients, 4 gave"),
        (trimmed_mean, 4, "needs 5 clients, 4 gave"),
        (
            lambda rows, num_attackers: krum(squared_distances(rows), num_attackers=num_attackers),
            6,
            "needs 7 clients, 6 gave",
        ),
    ],
)
def test_a_rule_refuses_a_cohort_below_its_minimum(rule, num_clients, words):
    """Two attackers need five clients, for Krum seven; the error says what to do."""
    with pytest.raises(CohortError, match=words + ".*; lower num_attackers"):
        rule(np.zeros((num_clients, 3)), num_attackers=2)
    rule(np.zeros((num_clients + 1, 3)), num_attackers=2)


@pytest.mark.parametrize("num_kept", [0, 6])
def test_multi_krum_refuses_to_keep_too_many(num_kept):
    """Of nine clients with two attackers at most five have a full set of honest neighbours."""
    with pytest.raises(CohortError, match="keeps 1 to 5 updates"):
        multi_krum(np.zeros((9, 9)), num_attackers=2, num_kept=num_kept)


@given(seed=st.integers(0, 999), num_clients=st.integers(5, 9))
def test_the_order_of_clients_does_not_matter(seed, num_clients):
    """Permuted rows give the same median and trimmed mean, and Krum the same client."""
    generator = np.random.default_rng(seed)
    rows, order = generator.normal(size=(num_clients, 4)), generator.permutation(num_clients)
    for rule in (coordinate_median, trimmed_mean):
        np.testing.assert_allclose(
            rule(rows[order], num_attackers=1), rule(rows, num_attackers=1), rtol=1e-12
        )
    chosen = krum(squared_distances(rows[order]), num_attackers=1)
    assert order[chosen] == krum(squared_distances(rows), num_attackers=1)


def test_clipping_shortens_only_what_is_too_long():
    """(3, 4) of norm 5 becomes (1.5, 2); a short row and a zero row stay bit for bit."""
    rows = np.array([[3.0, 4.0], [0.1, 0.2], [0.0, 0.0]])
    clipped, is_clipped = clip(rows, most_norm=2.5)
    np.testing.assert_allclose(clipped[0], [1.5, 2.0])
    np.testing.assert_array_equal(clipped[1:], rows[1:])
    assert is_clipped.tolist() == [True, False, False]
    with pytest.raises(ValueError, match="give a positive one"):
        clip(rows, most_norm=0.0)
