"""One decision among eligible models."""

from datetime import date

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.facts import ModelFacts
from router.goal_costs import COSTS, Expectation, costs_of
from router.goals import Goal, Goals
from router.model_decision import Outlook, best_single, decide, explore
from router.objective import scale


def expected(seconds: float | None = None, output: float = 100, **facts: object) -> Expectation:
    """Return a model of these facts, asked something of 1,000 tokens."""
    return Expectation(ModelFacts.model_validate(facts), 1000, output, None, seconds)


def priced(*prices: float) -> list[Expectation]:
    """Return models with these prices a million tokens."""
    return [
        expected(price_input_usd_per_million=price, price_output_usd_per_million=price)
        for price in prices
    ]


def outlook(*losses: float, errors: float = 0.0, margin: float = 0.0) -> Outlook:
    """Return a prediction whose best single model is the first."""
    means = tuple(float(place) for place in range(len(losses)))
    return Outlook(losses, (errors,) * len(losses), means, margin)


LOSSES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@given(LOSSES)
def test_without_goals_the_least_predicted_loss_is_picked(losses: list[float]) -> None:
    """Weight 0 picks the argmin of the predicted loss, and every model stands in the order."""
    decision = decide(outlook(*losses), priced(*losses), Goals({"cheapest": 0.0}))
    assert losses[decision.order[0]] == min(losses)
    assert sorted(decision.order) == list(range(len(losses)))
    assert decision.reason == "best_predicted"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 9)), min_size=2, max_size=6), st.data())
def test_more_weight_never_costs_more(
    models: list[tuple[float, float]], data: st.DataObject
) -> None:
    """Raising a goal's weight never raises the pick's cost on that goal."""
    low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    losses, prices = zip(*models, strict=True)
    costs = scale(prices)
    picks = [
        decide(outlook(*losses), priced(*prices), Goals({"cheapest": weight})).order[0]
        for weight in (low, high)
    ]
    assert costs[picks[1]] <= costs[picks[0]] + 1e-9


@given(LOSSES, st.floats(0, 1))
def test_quality_is_a_filter(losses: list[float], least: float) -> None:
    """Models good enough come first however dear; if none is, the best one and the reason says so."""
    decision = decide(outlook(*losses), priced(*losses), Goals({"cheapest": 1.0}, least))
    good = [place for place, loss in enumerate(losses) if 1 - loss >= least]
    if good:
        assert decision.order[0] in good
        assert set(decision.order[: len(good)]) == set(good)
    else:
        assert decision.reason == "quality_unmet"
        assert losses[decision.order[0]] == min(losses)


def test_a_lead_within_the_noise_abstains() -> None:
    """The best single model is picked where the predicted lead is below its noise."""
    sure = decide(outlook(0.5, 0.2, errors=0.01, margin=1.0), priced(1, 1), Goals())
    unsure = decide(outlook(0.5, 0.4, errors=0.3, margin=1.0), priced(1, 1), Goals())
    assert (sure.order, sure.reason) == ((1, 0), "best_predicted")
    assert (unsure.order, unsure.reason) == ((0, 1), "abstained")


def test_without_a_prediction_goals_and_then_the_pools_order_decide() -> None:
    """A pool needs no predictor: the first listed, or the best by the goals asked."""
    models = priced(3, 1, 2)
    assert decide(None, models, Goals()).order == (0, 1, 2)
    assert decide(None, models, Goals()).reason == "first_listed"
    cheap = decide(None, models, Goals({"cheapest": 0.1}))
    assert (cheap.order, cheap.reason) == ((1, 2, 0), "by_goals")
    assert decide(None, models, Goals({}, 0.5)).reason == "quality_unmet"


def test_a_failed_predictor_leaves_the_best_single_model() -> None:
    """The order is that of the mean losses, with a reason of its own."""
    decision = best_single([0.5, 0.2, 0.4])
    assert (decision.order, decision.reason) == ((1, 2, 0), "predictor_failed")


@given(st.integers(1, 5), st.floats(0, 1), st.floats(0, 1, exclude_max=True))
def test_exploring_says_how_likely_each_pick_was(num: int, fraction: float, draw: float) -> None:
    """The share explores; the propensity is the chance of the pick, however it came about."""
    greedy = decide(None, priced(*range(num)), Goals())
    assume(fraction > 1e-6)
    decision = explore(greedy, fraction=fraction, draw=draw)
    share = fraction / num
    is_first = decision.order[0] == 0
    assert decision.propensity == pytest.approx(share + (1 - fraction if is_first else 0))
    assert sorted(decision.order) == list(range(num))
    assert (decision.reason == "explored") == (draw < fraction)


@pytest.mark.parametrize(
    ("goal", "better", "worse"),
    [
        (Goal.SMALLEST, expected(parameters=1e9), expected(parameters=8e9)),
        (Goal.SMALLEST, expected(parameters=5e10, active_parameters=3e9), expected(parameters=8e9)),
        (Goal.CHEAPEST, *priced(1, 2)),
        (Goal.FASTEST, expected(seconds=1.0), expected(seconds=2.0)),
        (
            Goal.NEWEST,
            expected(released=date(2026, 5, 1)),
            expected(released=date(2024, 1, 1)),
        ),
        (Goal.MOST_SECURE, expected(is_local=True), expected()),
        (
            Goal.SHORTEST,
            Expectation(ModelFacts(), 1, 1, 10.0, None),
            Expectation(ModelFacts(), 1, 1, 90.0, None),
        ),
        (Goal.MOST_READABLE, expected(readability=0.9), expected(readability=0.2)),
    ],
)
def test_every_goal_prefers_the_better_model(
    goal: Goal, better: Expectation, worse: Expectation
) -> None:
    """With equal losses a goal decides, and a model whose fact is unknown comes last."""
    found = decide(outlook(0.5, 0.5), [worse, better], Goals({goal: 0.1}))
    assert found.order[0] == 1
    if goal not in (Goal.FASTEST, Goal.MOST_SECURE):
        told = decide(outlook(0.5, 0.5, 0.5), [expected(), worse, better], Goals({goal: 0.1}))
        assert told.order[0] == 2


def test_a_speed_not_measured_counts_as_the_best() -> None:
    """Else a model that was slow once would never be measured again."""
    costs = costs_of({Goal.FASTEST: 1.0}, [expected(3.0), expected(None), expected(1.0)])
    assert costs[Goal.FASTEST] == [3.0, 1.0, 1.0]


def test_every_goal_has_its_cost() -> None:
    """No goal of the grammar is without a cost."""
    assert set(COSTS) == set(Goal)
