"""What is replayed: drawn requests, recorded traces, and plans read back from their files."""

import itertools
import json
import statistics
from random import Random

import pytest
from fleet_files import LLAMA, SLO, chat_trace, inputs_of, logged, modelled, served, stated
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import UnverifiableError
from planner.fleet.fleet_config import FleetConfig, Verification
from planner.fleet.fleet_plan import FleetPlan
from planner.fleet.fleet_replays import obstacle_to_replay, replays
from planner.fleet.plan import plan_fleet
from planner.fleet.planned_fleet import planned_fleet
from planner.fleet.replay import (
    DrawnReplay,
    RecordedReplay,
    drawn_requests,
    drawn_trace,
    most_requests,
)
from planner.simulator import simulate
from planner.workloads.workload import Workload

MEANS = Workload(
    input_tokens_up_to=(100, 500),
    output_tokens_up_to=(50, 400),
    rates_requests_per_second=((4, 0), (1, 3)),
    mean_input_tokens=((30, None), (120, 300)),
    mean_output_tokens=((20, None), (25, 380)),
)


def test_drawn_requests_have_the_grids_rates_and_means():
    """Over many draws every size has its share, its mean lengths, and nothing outside its range."""
    trace = drawn_trace(MEANS, 40_000, Random(1))
    cells = {}
    for inputs, outputs in zip(trace.input_tokens, trace.output_tokens, strict=True):
        cells.setdefault((inputs > 100, outputs > 50), []).append((inputs, outputs))
    assert sorted(cells) == [(False, False), (True, False), (True, True)]
    for cell, share, mean_input, mean_output in (
        ((False, False), 4 / 8, 30, 20),
        ((True, False), 1 / 8, 120, 25),
        ((True, True), 3 / 8, 300, 380),
    ):
        drawn = cells[cell]
        assert len(drawn) / 40_000 == pytest.approx(share, abs=0.01)
        assert statistics.fmean(inputs for inputs, _ in drawn) == pytest.approx(
            mean_input, rel=0.03
        )
        assert statistics.fmean(outputs for _, outputs in drawn) == pytest.approx(
            mean_output, rel=0.03
        )
    assert max(trace.input_tokens) <= 500
    assert max(trace.output_tokens) <= 400


def test_drawn_arrivals_are_poisson():
    """Gaps have the mean of the total rate and a coefficient of variation of 1."""
    arrivals = drawn_trace(MEANS, 40_000, Random(2)).arrival_seconds
    gaps = [after - before for before, after in itertools.pairwise(arrivals)]
    assert statistics.fmean(gaps) == pytest.approx(1 / 8, rel=0.03)
    assert statistics.pstdev(gaps) / statistics.fmean(gaps) == pytest.approx(1, rel=0.03)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(1, 60), st.data())
def test_drawn_lengths_stay_inside_their_range(over, width, data):
    """Whatever the mean of a range, no draw leaves it, and none exceeds what planning allows for."""
    up_to = over + width
    mean = data.draw(st.one_of(st.none(), st.floats(over, up_to, exclude_min=True)))
    workload = Workload(
        input_tokens_up_to=(over, up_to) if over else (up_to,),
        output_tokens_up_to=(1,),
        rates_requests_per_second=((0,), (1,)) if over else ((1,),),
        mean_input_tokens=((None,), (mean,)) if over else ((mean,),),
    )
    tokens = drawn_trace(workload, 200, Random(0)).input_tokens
    assert over < min(tokens)
    assert max(tokens) <= up_to
    assert max(tokens) <= workload.sizes()[-1].input_spread_tokens[1] + 1


def test_the_same_seed_draws_the_same():
    """A replication can be repeated."""
    assert drawn_trace(MEANS, 100, Random(5)) == drawn_trace(MEANS, 100, Random(5))
    assert drawn_trace(MEANS, 100, Random(5)) != drawn_trace(MEANS, 100, Random(6))


def test_a_replication_lasts_ten_minutes_within_bounds():
    """Few requests are raised to 2,000, many cut to the limit."""

    def at(rate):
        return Workload(
            input_tokens_up_to=(1,), output_tokens_up_to=(1,), rates_requests_per_second=((rate,),)
        )

    assert drawn_requests(at(0.1), most=50_000) == 2000
    assert drawn_requests(at(10), most=50_000) == 6000
    assert drawn_requests(at(1000), most=50_000) == 50_000


def test_a_grid_is_drawn_and_a_trace_is_replayed(tmp_path):
    """Of a trace above the limit the densest stretch is replayed, and the words say so."""
    trace = chat_trace(duration_seconds=100)
    content = modelled()
    content["models"] = [
        content["models"][0] | {"workload": {"trace": str(logged(trace, tmp_path))}},
        served("grid", source=LLAMA, slo=SLO),
    ]
    inputs = inputs_of(content, tmp_path)
    found = replays(inputs, Verification(max_requests=200, replications=12, seed=3))
    recorded, drawn = found[LLAMA], found["grid"]
    assert isinstance(recorded, RecordedReplay)
    arrivals = trace.arrival_seconds
    stretches = [last - first for first, last in zip(arrivals, arrivals[199:], strict=False)]
    assert recorded.num_requests == 200
    assert recorded.duration_seconds == pytest.approx(min(stretches))
    assert "its busiest 200 requests in a row" in recorded.words
    assert isinstance(drawn, DrawnReplay)
    assert (drawn.num_samples, drawn.num_requests, drawn.seed) == (12, 200, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (modelled(shares="oracle"), "no router can follow shares by output size"),
        (stated(), "m has no slo"),
        (stated(models=[served(slo=SLO)]), "A10G states throughputs, which cannot be replayed"),
        (modelled(), ""),
    ],
)
def test_what_cannot_be_replayed_says_why(content, words, tmp_path):
    """Without step times, a target or shares to follow there is nothing to verify."""
    assert obstacle_to_replay(inputs_of(content, tmp_path)) == words


@pytest.fixture(scope="module")
def plan():
    """Return a plan of one L40S and one H100, not verified."""
    content = modelled(verification=False)
    content["offers"] = [
        {"gpu": "L40S", "price_usd_per_hour": 1.9, "max_gpus": 1},
        {"gpu": "H100-SXM", "price_usd_per_hour": 12.0},
    ]
    content["models"][0]["workload"]["requests_per_second"] = 19
    found = plan_fleet(FleetConfig.model_validate(content)).plan
    assert len(found.replicas) == 2
    return found


def test_a_plan_read_back_simulates_identically(plan):
    """Through JSON no latency changes, to the last bit."""
    again = FleetPlan.model_validate_json(plan.model_dump_json())
    trace = chat_trace(requests_per_second=19, duration_seconds=60)
    first, second = (simulate(planned_fleet(each, LLAMA), trace, seed=0) for each in (plan, again))
    assert first.first_token_seconds == second.first_token_seconds
    assert first.completion_seconds == second.completion_seconds
    assert first.replica_of == second.replica_of


def test_pools_and_shares_are_the_routers(plan):
    """Counts, markets and limits are the plan's; shares are the thousandths that the router draws by."""
    fleet = planned_fleet(plan, LLAMA)
    rows = plan.replicas
    assert [(pool.name, pool.market, pool.num_replicas) for pool in fleet.pools] == [
        (row.offer, row.market, row.replicas) for row in rows
    ]
    shares = fleet.shares[LLAMA]
    assert shares.input_tokens_up_to == tuple(row.input_tokens_up_to for row in plan.weights)
    assert shares.rows == tuple(
        tuple(weights.weights.get(row.offer, 0) / 1000 for row in rows) for weights in plan.weights
    )


def test_the_replay_follows_weights_where_they_differ_from_shares(plan):
    """A share far below a thousandth weighs one in the router, and so it does in the replay."""
    first, second = (row.offer for row in plan.replicas)
    rounded = tuple(
        row.model_copy(
            update={
                "shares_fraction": {first: 1e-9, second: 1 - 1e-9},
                "weights": {first: 1, second: 999},
            }
        )
        for row in plan.weights
    )
    shares = planned_fleet(plan, LLAMA, weights=rounded).shares[LLAMA]
    assert set(shares.rows) == {(0.001, 0.999)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"oracle_shares": True}, "no router's to follow"),
        ({"gpus": []}, "the plan lacks the device, model or coefficients"),
        ({"model_specs": {}}, "the plan lacks the device, model or coefficients"),
        ({"coefficients": []}, "the plan lacks the device, model or coefficients"),
    ],
)
def test_a_plan_that_lacks_a_speed_cannot_be_replayed(change, words, plan):
    """A document without its devices, sizes or coefficients is refused, never filled up by guesses."""
    stripped = FleetPlan.model_validate(json.loads(plan.model_dump_json()) | change)
    with pytest.raises(UnverifiableError, match=words):
        planned_fleet(stripped, LLAMA)


def test_stated_throughputs_cannot_be_replayed():
    """A throughput says nothing of single steps."""
    plan = plan_fleet(FleetConfig.model_validate(stated())).plan
    with pytest.raises(UnverifiableError, match="states a throughput, which cannot be replayed"):
        planned_fleet(plan, "m")


def test_the_traffic_of_a_large_fleet_is_replayed_for_minutes():
    """Beyond a few hundred requests a second the bound follows the rate."""

    def at(rate):
        return Workload(
            input_tokens_up_to=(10,),
            output_tokens_up_to=(10,),
            rates_requests_per_second=((rate,),),
        )

    assert most_requests(at(10)) == 50_000
    assert most_requests(at(1000)) == 180_000
