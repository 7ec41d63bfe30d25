"""What must hold of any planned file, whatever its numbers."""

import itertools
from pathlib import Path

import pytest
from fleet_files import LLAMA, SLO, served, stated
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.fleet_plan import WEIGHT_SUM
from planner.fleet.pareto import pareto
from planner.fleet.plan import Search, plan_fleet

SLACK = 1 + 1e-5

rates = st.lists(st.floats(0.1, 20), min_size=4, max_size=4)
throughputs = st.lists(st.one_of(st.just(0.0), st.floats(0.5, 30)), min_size=4, max_size=4)


def _matrix(numbers):
    return [numbers[:2], numbers[2:]]


@st.composite
def files(draw):
    """Draw a file of one model; its first offer serves everything."""
    offers = [
        {
            "name": f"offer-{index}",
            "price_usd_per_hour": draw(st.floats(0.2, 9)),
            "market": draw(st.sampled_from(["on-demand", "spot"])),
            "throughput_requests_per_second": _matrix(
                draw(throughputs if index else st.lists(st.floats(0.5, 30), min_size=4, max_size=4))
            ),
        }
        for index in range(draw(st.integers(1, 3)))
    ]
    survive = ["one-replica"] if draw(st.booleans()) else []
    return stated(models=[served(rates=_matrix(draw(rates)))], offers=offers, survive=survive)


@settings(max_examples=30, deadline=None)
@given(files())
def test_an_oracle_never_costs_more_and_single_types_never_less(content):
    """Knowing outputs costs at most as much, one type alone at least; weights and loads add up."""
    plan = plan_fleet(FleetConfig.model_validate(content)).plan
    assert plan.status == "optimal"
    assert plan.oracle_cost_usd_per_hour <= plan.cost_usd_per_hour * SLACK
    for fleet in plan.single_type:
        if fleet.cost_usd_per_hour is not None:
            assert plan.cost_usd_per_hour <= fleet.cost_usd_per_hour * SLACK
    for row in plan.weights:
        assert sum(row.weights.values()) == WEIGHT_SUM
        assert sum(row.shares_fraction.values()) == pytest.approx(1)
    for pool in plan.replicas:
        assert pool.utilisation_fraction <= pool.utilisation_limit_fraction * SLACK
        if content["survive"]:
            assert pool.load_replicas <= (pool.replicas - 1) * SLACK


@settings(max_examples=6, deadline=None)
@given(
    rates,
    st.sampled_from(["mean", "p50", "p95"]),
    st.floats(0.3, 3.0),
    st.lists(st.floats(0.3, 3.0), min_size=2, max_size=3, unique=True),
)
def test_a_tighter_target_never_costs_less(model_rates, statistic, scale, factors):
    """Along the front the bound of a tighter target never passes the cost of a looser one."""
    slo = {
        "ttft_seconds": SLO["ttft_seconds"] * scale,
        "ttft_statistic": statistic,
        "tpot_seconds": SLO["tpot_seconds"] * scale,
    }
    model = served(LLAMA, rates=_matrix(model_rates), slo=slo, max_context_tokens=4096)
    offers = [
        {"gpu": gpu, "price_usd_per_hour": price}
        for gpu, price in (("A10G", 1.0), ("L40S", 1.9), ("H100-SXM", 9.0))
    ]
    config = FleetConfig.model_validate(stated(models=[model], offers=offers))
    points = pareto(config, folder=Path(), search=Search(gap_fraction=1e-6), factors=factors)
    costs = [
        float("inf") if point.cost_usd_per_hour is None else point.cost_usd_per_hour
        for point in points
    ]
    for tighter, looser in itertools.pairwise(costs):
        assert looser <= tighter * SLACK
