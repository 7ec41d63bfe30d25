import numpy as np
import pytest

from router.prediction.metrics import (
    calibration_error,
    gap_closed,
    paired_gain,
    pick_shares,
    standard_error,
)

SCORES = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_optimal_picks_are_counted_with_and_without_ties() -> None:
    """Strict looks at unique best models only; tie-aware leaves out what every model fails."""
    shares = pick_shares(SCORES, np.array([0, 1, 2, 0]))
    assert shares.unique_fraction == 0.5
    assert shares.strict_fraction == 0.5
    assert shares.failed_fraction == 0.25
    assert shares.tie_aware_fraction == pytest.approx(2 / 3)


def test_the_gap_is_closed_by_the_oracle_and_opened_by_bad_picks() -> None:
    """The best single model is 0, the oracle 1, and worse than the single one is below 0."""
    single, oracle = np.array([1.0, 0.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 1.0])
    assert gap_closed(single, single, oracle) == 0
    assert gap_closed(oracle, single, oracle) == 1
    assert gap_closed(np.zeros(4), single, oracle) == -0.5
    assert gap_closed(oracle, oracle, oracle) == 0


def test_calibration_error_is_the_gap_within_bins() -> None:
    """Predictions 0.1 too high everywhere are off by 0.1; exact ones by nothing."""
    generator = np.random.default_rng(0)
    scores = generator.random((300, 2))
    assert calibration_error(scores, scores) == 0
    assert calibration_error(scores + 0.1, scores) == pytest.approx(0.1)


def test_a_sure_gain_has_an_interval_above_nothing() -> None:
    """The interval holds the mean, and is a point where every prompt gains alike."""
    same = paired_gain(np.full(50, 0.6), np.full(50, 0.5), seed=0)
    assert (same.low, same.high) == (pytest.approx(0.1), pytest.approx(0.1))
    generator = np.random.default_rng(1)
    noisy = paired_gain(generator.random(400), generator.random(400), seed=0)
    assert noisy.low < noisy.value < noisy.high
    # Near the normal approximation, 1.96 standard errors each way.
    assert noisy.high - noisy.low == pytest.approx(2 * 1.96 * np.sqrt(1 / 6 / 400), rel=0.2)


def test_one_prompt_has_no_standard_error() -> None:
    """A spread needs two."""
    assert standard_error(np.array([0.3])) == 0
