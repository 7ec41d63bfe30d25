import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prediction.calibration import LEAST_LABELS, fit_calibration, pool_adjacent_violators


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.5, 5)), min_size=1, max_size=30))
def test_pooled_blocks_rise_and_keep_the_weighted_mean(rows: list[tuple[float, float]]) -> None:
    """Isotonic regression moves no mass."""
    values, weights = (np.array(column) for column in zip(*rows, strict=True))
    knots, means = pool_adjacent_violators(np.arange(len(rows), dtype=float), values, weights)
    assert all(np.diff(means) > 0)
    assert all(np.diff(knots) > 0)
    if len(means) == 1:
        assert means[0] == pytest.approx(np.average(values, weights=weights))


def test_hand_computed_blocks() -> None:
    """1, 3, 2, 4: the middle two become 2.5 between their positions."""
    knots, means = pool_adjacent_violators(
        np.array([0.0, 1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0, 4.0]), np.ones(4)
    )
    assert knots.tolist() == [0, 1.5, 3]
    assert means.tolist() == [1, 2.5, 4]


def test_a_bent_prediction_is_straightened() -> None:
    """Observed losses that are a function of the prediction are found again."""
    generator = np.random.default_rng(0)
    predicted = generator.random((4_000, 1)).astype(np.float32)
    losses = (generator.random((4_000, 1)) < predicted**2).astype(np.float32)
    calibration = fit_calibration(predicted, losses)
    asked = np.array([[0.2], [0.5], [0.9]], dtype=np.float32)
    np.testing.assert_allclose(calibration.apply(asked), asked**2, atol=0.06)


def test_order_is_kept_everywhere() -> None:
    """Of two different predictions the larger stays the larger, beyond the ends too."""
    generator = np.random.default_rng(1)
    predicted = generator.normal(size=(500, 2)).astype(np.float32)
    losses = (generator.random((500, 2)) < 0.5).astype(np.float32)
    calibration = fit_calibration(predicted, losses)
    asked = np.repeat(np.linspace(-9, 9, 101, dtype=np.float32)[:, None], 2, axis=1)
    assert np.all(np.diff(calibration.apply(asked), axis=0) > 0)


def test_few_labels_leave_predictions_as_they_are() -> None:
    """A map of a handful of labels would be noise."""
    predicted = np.linspace(0, 1, LEAST_LABELS - 1, dtype=np.float32)[:, None]
    calibration = fit_calibration(predicted, np.zeros_like(predicted))
    np.testing.assert_allclose(calibration.apply(predicted), predicted, atol=1e-6)
