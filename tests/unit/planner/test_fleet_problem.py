"""The numbers of a fleet problem: rounding, sizes that nobody asks for, and single types."""

import pytest
from fleet_instances import fleet_problem, melange_problem

from planner.fleet_config import FleetConfig
from planner.fleet_problem import ceil_replicas, problem_of
from planner.single_type import single_type


@pytest.mark.parametrize(
    ("load", "replicas"),
    [(3.9999, 4), (4.0, 4), (4.0000000001, 4), (4.001, 5), (0.0, 1), (1e-12, 1)],
)
def test_replicas_round_up_but_not_for_noise(load, replicas):
    """Any real load takes a whole replica, one part in 10^9 does not."""
    assert ceil_replicas(load) == replicas


def test_sizes_without_requests_take_no_part():
    """A size with rate 0 is not in the problem, even if nobody could serve it."""
    config = FleetConfig.model_validate(
        {
            "model": "m",
            "workload": {
                "input_tokens_up_to": [1, 2],
                "output_tokens_up_to": [1],
                "rates_requests_per_second": [[3], [0]],
            },
            "offers": [
                {
                    "name": "a",
                    "price_usd_per_hour": 1,
                    "throughput_requests_per_second": [[2], [None]],
                }
            ],
        }
    )
    problem = problem_of(config)
    assert len(problem.sizes) == 1
    assert problem.offers[0].throughputs_requests_per_second == (2,)
    assert problem.offers[0].utilisation_limit_fraction == 0.85


def test_load_on_an_offer_that_cannot_serve_is_the_callers_mistake():
    """There is no division by a zero throughput."""
    problem = fleet_problem([1.0], [(1.0, [0.0])])
    with pytest.raises(ValueError, match="offer-0 cannot serve input 1-100"):
        problem.load_replicas(0, 0)


def test_single_types_of_the_published_example():
    """Twelve A10G or two A100 serve the published example alone."""
    fleets = [single_type(melange_problem(), offer) for offer in (0, 1)]
    assert [fleet.replicas for fleet in fleets] == [12, 2]
    assert [fleet.cost_usd_per_hour for fleet in fleets] == pytest.approx([12.12, 7.34])


def test_a_single_type_says_why_it_is_not_to_be_had():
    """A size it cannot serve and a cap it exceeds are named."""
    problem = fleet_problem([1.0, 4.0], [(1.0, [1, 0]), (1.0, [1, 1], 1.0, 3)])
    assert "cannot serve input 101-200" in single_type(problem, 0).obstacle
    capped = single_type(problem, 1)
    assert (capped.replicas, capped.cost_usd_per_hour) == (5, None)
    assert capped.obstacle == "max_replicas is 3"
