"""The front of cost against the latency target, point by point."""

from pathlib import Path

import pytest
from fleet_files import LLAMA, SLO, served, stated

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.pareto import front_of, pareto
from planner.fleet.plan import Search


def _config(**changes):
    """Return a file of one modelled offer, its verification on."""
    fields = {
        "models": [served(LLAMA, slo=SLO, max_context_tokens=4096)],
        "offers": [{"gpu": "L40S", "price_usd_per_hour": 2}],
        "verification": True,
    }
    return FleetConfig.model_validate(stated(**(fields | changes)))


def test_points_rise_once_each_and_progress_stays_within_one():
    """However many factors in whatever order, the tightest comes first and none twice."""
    seen = []
    search = Search(on_progress=lambda text, fraction: seen.append((text, fraction)))
    factors = [3, 1, 2, 1, 0.5, 0.7, 1.5, 2.5, 4, 5, 6, 7]
    points = pareto(_config(), folder=Path(), search=search, factors=factors)
    assert [point.factor for point in points] == sorted(set(factors))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] <= fractions[-1] < 1
    assert seen[0][0] == "limits x 0.5"


def test_a_point_names_its_limits_cost_bound_and_fleet():
    """Every limit is scaled by the factor; an impossible one has no cost and says so."""
    impossible, usual = pareto(_config(), folder=Path(), search=Search(), factors=[0.01, 1])
    assert impossible.cost_usd_per_hour is impossible.bound_usd_per_hour is None
    assert impossible.mix == "infeasible"
    assert impossible.limits == f"{LLAMA} TTFT 0.01 s, TPOT 0.0006 s"
    assert usual.limits == f"{LLAMA} TTFT 1 s, TPOT 0.06 s"
    assert usual.bound_usd_per_hour == pytest.approx(usual.cost_usd_per_hour)
    assert usual.mix == f"{usual.cost_usd_per_hour / 2:.0f} x L40S/on-demand"


def test_no_front_where_there_is_no_target():
    """A plan's picture leaves the panel out rather than failing."""
    config = FleetConfig.model_validate(stated())
    assert front_of(config, folder=Path(), search=Search()) == ()
