import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.objective import ABSTAINED, BEST_PREDICTED, choose, objective, scale

LOSSES = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def _pick(losses: list[float], costs: list[float], weight: float) -> int:
    terms = objective(losses, costs={"cheapest": costs}, weights={"cheapest": weight})
    return choose(terms, standard_errors=[0.0] * len(losses), best_single=None).pick


@given(LOSSES)
def test_without_goals_the_lowest_loss_is_picked(losses: list[float]) -> None:
    """With no weight the pick is the argmin of the predicted loss."""
    terms = objective(losses, costs={}, weights={})
    choice = choose(terms, standard_errors=[0.0] * len(losses), best_single=None)
    assert losses[choice.pick] == min(losses)
    assert sorted(choice.order) == list(range(len(losses)))


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 100)), min_size=1, max_size=8),
    st.floats(0, 5),
    st.floats(0, 5),
)
def test_a_larger_weight_never_raises_the_cost_of_the_pick(
    models: list[tuple[float, float]], one: float, other: float
) -> None:
    """The constraint of the pick falls as its weight grows; rounding aside."""
    losses, costs = [list(column) for column in zip(*models, strict=True)]
    low, high = sorted((one, other))
    scaled = scale(costs)
    assert (
        scaled[_pick(losses, costs, high)] * (high - low)
        <= scaled[_pick(losses, costs, low)] * (high - low) + 1e-9
    )


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_scaled_costs_lie_between_nothing_and_one(costs: list[float]) -> None:
    """The best eligible model costs 0; the worst costs 1 unless all are equal."""
    scaled = scale(costs)
    assert min(scaled) == 0
    assert max(scaled) == (1 if max(costs) > min(costs) else 0)


def test_one_eligible_model_has_no_constraint() -> None:
    """A library of one is scaled to 0, whatever it costs."""
    assert scale([7.5]) == (0.0,)


def test_what_is_not_known_counts_as_the_worst() -> None:
    """NaN cannot win a goal, and where nothing is known the goal decides nothing."""
    assert scale([2.0, math.nan, 4.0]) == (0.0, 1.0, 1.0)
    assert scale([math.nan, math.nan]) == (0.0, 0.0)
    assert scale([3.0, math.nan]) == (0.0, 1.0)


def test_terms_add_up() -> None:
    """The total is the loss plus each weight times the scaled constraint."""
    result = objective(
        [0.2, 0.1, 0.4],
        costs={"cheapest": [1.0, 3.0, 2.0], "newest": [10.0, 10.0, 10.0], "fastest": [0.0] * 3},
        weights={"cheapest": 0.5, "newest": 2.0, "fastest": 0.0},
    )
    assert result.terms == {"cheapest": (0.0, 0.5, 0.25), "newest": (0.0, 0.0, 0.0)}
    assert result.totals == pytest.approx((0.2, 0.6, 0.65))


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_that_is_no_amount_is_refused(weight: float) -> None:
    """Negative, NaN and infinite weights are a caller's mistake."""
    with pytest.raises(ValueError, match="cheapest"):
        objective([0.1], costs={"cheapest": [1.0]}, weights={"cheapest": weight})


def test_equal_totals_go_to_the_cheaper() -> None:
    """The tie break decides before the position does."""
    terms = objective([0.3, 0.3, 0.3], costs={}, weights={})
    choice = choose(terms, standard_errors=[0.0] * 3, best_single=None, tie_break=[0.9, 0.2, 0.2])
    assert choice.order == (1, 2, 0)


def test_a_lead_within_the_noise_goes_to_the_best_single_model() -> None:
    """Abstaining puts the best single model first and keeps the others' order."""
    terms = objective([0.30, 0.28, 0.5], costs={}, weights={})
    abstained = choose(terms, standard_errors=[0.03, 0.04, 0.1], best_single=0, margin=1.0)
    assert (abstained.order, abstained.reason) == ((0, 1, 2), ABSTAINED)
    sure = choose(terms, standard_errors=[0.003, 0.004, 0.1], best_single=0, margin=1.0)
    assert (sure.order, sure.reason) == ((1, 0, 2), BEST_PREDICTED)
