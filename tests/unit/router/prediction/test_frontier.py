import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.objective import choose, objective
from router.prediction.frontier import (
    Standing,
    average_quality,
    parity_weight,
    picks_at,
    sweep,
    upper_hull,
)

# On a grid: costs a subnormal apart have no slope in float64.
COSTS, QUALITIES = (st.integers(0, most).map(lambda one: one / 1e4) for most in (100_000, 10_000))
POINTS = st.lists(st.tuples(COSTS, QUALITIES), min_size=1, max_size=12)


def _standing(seed: int, *, margin: float = 0.0) -> Standing:
    generator = np.random.default_rng(seed)
    return Standing(
        losses=generator.random((40, 4)).round(1),
        standard_errors=generator.random((40, 4)) / 5,
        costs_usd=generator.integers(1, 4, (40, 4)).astype(float),
        best_single=2,
        margin=margin,
    )


@given(POINTS)
def test_a_hull_is_above_every_point_and_bends_down(points: list[tuple[float, float]]) -> None:
    """It rises, its slopes fall, and no point lies over it."""
    hull = upper_hull(points)
    costs, qualities = [one[0] for one in hull], [one[1] for one in hull]
    assert all(np.diff(qualities) > 0)
    assert all(np.diff(costs) > 0)
    slopes = np.diff(qualities) / np.diff(costs)
    assert all(np.diff(slopes) <= 1e-6 * np.abs(slopes[:-1]))
    for cost, quality in points:
        if cost >= costs[0]:
            assert quality <= np.interp(cost, costs, qualities) + 1e-9


def test_average_quality_of_a_hand_computed_curve() -> None:
    """Points (1, .4), (2, .6), (4, .5) to cost 4: a trapezoid of .5 and a rectangle of 1.2."""
    points = [(1.0, 0.4), (2.0, 0.6), (4.0, 0.5)]
    assert average_quality(points, most_cost=4.0) == pytest.approx((0.5 + 1.2) / 4)


def test_a_point_under_the_line_between_its_neighbours_adds_nothing() -> None:
    """The hull of (0, 0), (1, .1), (2, .8) skips the middle."""
    points = [(0.0, 0.0), (1.0, 0.1), (2.0, 0.8)]
    assert upper_hull(points) == [(0.0, 0.0), (2.0, 0.8)]
    assert average_quality(points, most_cost=2.0) == pytest.approx(0.4)


def test_nothing_is_affordable_at_no_cost() -> None:
    """Without a point up to the limit the average quality is 0."""
    assert average_quality([(3.0, 0.9)], most_cost=1.0) == 0


@given(st.integers(0, 50), st.sampled_from([0.0, 0.05, 0.4, 3.0]), st.sampled_from([0.0, 0.5]))
def test_the_sweep_picks_what_the_router_would(seed: int, weight: float, margin: float) -> None:
    """Evaluation and the live decision are one rule."""
    standing = _standing(seed, margin=margin)
    picks = picks_at(standing, weight)
    for row, pick in enumerate(picks):
        costs = standing.costs_usd[row].tolist()
        live = choose(
            objective(
                standing.losses[row].tolist(),
                costs={"cheapest": costs},
                weights={"cheapest": weight},
            ),
            standard_errors=standing.standard_errors[row].tolist(),
            best_single=standing.best_single,
            margin=margin,
            tie_break=costs,
        )
        assert live.pick == pick


@given(st.integers(0, 50))
def test_a_dearer_price_never_makes_the_picks_dearer(seed: int) -> None:
    """Without abstaining, the mean scaled cost falls along the sweep."""
    standing = _standing(seed)
    points = sweep(standing, 1 - standing.losses)
    # Rows have costs of one range only, so dollars and scaled costs fall together.
    same = Standing(
        standing.losses,
        standing.standard_errors,
        np.tile([1.0, 2.0, 3.0, 4.0], (40, 1)),
        standing.best_single,
        0.0,
    )
    costs = [one.cost_usd for one in sweep(same, 1 - same.losses)]
    assert all(np.diff(costs) <= 1e-9)
    assert points[0].quality == pytest.approx(float((1 - standing.losses).max(axis=1).mean()))


def test_the_weight_at_parity_keeps_the_accuracy() -> None:
    """On the prompts it is chosen on, the accuracy there is at least the best single model's."""
    for seed in range(10):
        standing = _standing(seed)
        scores = 1 - standing.losses
        weight = parity_weight(standing, scores)
        picks = picks_at(standing, weight)
        kept = scores[np.arange(len(scores)), picks].mean()
        assert kept >= scores[:, standing.best_single].mean()
