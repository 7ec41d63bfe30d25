"""Offers' shares of all requests of a model."""

import pytest
from fleet_plans import CHAT, L4, SPOT, plan_content, small_plan
from hypothesis import given
from hypothesis import strategies as st

from planner.render.fleet import RenderedFleet, read_fleet
from planner.render.options import RenderOptions
from planner.render.shares import full_rate, offer_rates, offer_weights


def fleet_with(first_share: float, rates: tuple[float, float]) -> RenderedFleet:
    """Return the plan with other rates, and `first_share` of short chat requests on L4."""
    rows = plan_content()["weights"]
    shares = {L4: first_share, SPOT: 1 - first_share}
    weights = {L4: round(1000 * first_share), SPOT: 1000 - round(1000 * first_share)}
    rows[0] |= {"rate_requests_per_second": rates[0], "shares_fraction": shares, "weights": weights}
    rows[1] |= {"rate_requests_per_second": rates[1]}
    return read_fleet(small_plan(weights=rows), RenderOptions())


@given(share=st.floats(0, 1), rates=st.tuples(st.floats(0.001, 1e4), st.floats(0.001, 1e4)))
def test_weights_sum_to_1000_and_follow_the_rates(share, rates) -> None:
    """Each is within one of its exact part."""
    fleet = fleet_with(share, rates)
    weights, exact = offer_weights(fleet, CHAT), offer_rates(fleet, CHAT)
    assert sum(weights.values()) == 1000
    for offer, weight in weights.items():
        assert abs(weight - 1000 * exact[offer] / sum(exact.values())) <= 1


def test_rates_add_up_over_sizes() -> None:
    """Short requests split three to one, long ones all go to spot."""
    rates = offer_rates(fleet_with(0.75, (6.0, 2.0)), CHAT)
    assert rates == pytest.approx({L4: 4.5, SPOT: 3.5})


def test_a_replica_without_planned_requests_has_no_rate() -> None:
    """Nothing is said about what it takes."""
    fleet = fleet_with(0.0, (6.0, 2.0))
    assert full_rate(fleet, fleet.pools_of(CHAT)[0]) is None
