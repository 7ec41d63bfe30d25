"""From looked-up files to the numbers of the program."""

import pytest
from fleet_files import inputs_of, served, stated

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.fleet_rows import fleet_problem, size_groups


def _problem(content, folder, **options):
    inputs = inputs_of(content, folder)
    options.setdefault("knows_outputs", inputs.knows_outputs)
    return fleet_problem(inputs.config, inputs.models, inputs.kinds, **options)


def test_a_row_is_an_input_range_and_its_load_the_sum_over_outputs(tmp_path):
    """Load = sum of rate / throughput over the range's sizes."""
    problem = _problem(stated(), tmp_path)
    assert [row.name for row in problem.rows] == [
        "input 1-100 tokens",
        "input 101-500 tokens",
    ]
    assert [row.rate_requests_per_second for row in problem.rows] == [9, 21]
    assert problem.columns[0].loads == pytest.approx((6 / 2 + 3 / 1, 15 / 5 + 6 / 2))
    assert problem.columns[1].loads == pytest.approx((6 / 20 + 3 / 20, 15 / 40 + 6 / 20))


def test_the_oracle_has_a_row_for_every_size(tmp_path):
    """Knowing outputs splits each range; the loads of a range's rows add up to the range's."""
    problem = _problem(stated(), tmp_path, knows_outputs=True)
    assert problem.rows[1].name == "input 1-100, output 101-500 tokens"
    assert problem.columns[0].loads == pytest.approx((3, 3, 3, 3))


def test_one_size_that_cannot_be_served_takes_the_whole_range(tmp_path):
    """A router that does not know the output must not send such requests there."""
    content = stated()
    content["offers"][0]["throughput_requests_per_second"] = [[2, 0], [5, 2]]
    assert _problem(content, tmp_path).columns[0].loads[0] is None
    assert _problem(content, tmp_path, knows_outputs=True).columns[0].loads[0] == 3


def test_sizes_without_requests_have_no_row(tmp_path):
    """An empty input range is left out; an empty size adds nothing to its range."""
    content = stated(models=[served(rates=((0, 0), (15, 0)))])
    problem = _problem(content, tmp_path)
    assert [row.name for row in problem.rows] == ["input 101-500 tokens"]
    assert problem.columns[0].loads == (3,)


def _rented(**fields):
    offers = [
        {"gpu": "L4", "price_usd_per_hour": 1, "tensor_parallel": [1, 2]},
        {"gpu": "L4", "market": "spot", "region": "r", "price_usd_per_hour": 0.5},
    ]
    offers[0] |= fields
    models = [
        served(name, source="meta-llama/Llama-3.1-8B-Instruct", slo={"tpot_seconds": 0.2})
        for name in ("a", "b")
    ]
    return stated(models=models, offers=offers, verification=False)


def test_caps_count_devices_over_degrees_and_models(tmp_path):
    """TP1 and TP2 replicas of both models draw on one pool, two devices for each of TP2."""
    content = _rented(max_gpus=4) | {"caps": [{"gpu": "L4", "market": "spot", "max_gpus": 3}]}
    problem = _problem(content, tmp_path)
    names = [column.offer for column in problem.columns]
    assert names == ["L4/on-demand", "2xL4/on-demand", "L4/spot/r"] * 2
    assert [(cap.name, cap.limit, cap.columns, cap.unit) for cap in problem.caps] == [
        ("max_gpus of L4/spot", 3, (2, 5), "GPUs"),
        ("max_gpus of L4/on-demand", 4, (0, 1, 3, 4), "GPUs"),
    ]
    assert [column.gpus for column in problem.columns] == [1, 2, 1] * 2
    assert [column.is_spot for column in problem.columns] == [False, False, True] * 2
    assert {column.gpu_type for column in problem.columns} == {"L4"}
    assert problem.columns[2].region == "r"


def test_a_cap_on_replicas_is_one_for_each_degree(tmp_path):
    """`max_replicas` limits each kind of replica, all models together."""
    problem = _problem(_rented(max_replicas=2), tmp_path)
    assert [(cap.name, cap.limit, cap.columns, cap.unit) for cap in problem.caps] == [
        ("max_replicas of L4/on-demand", 2, (0, 3), "replicas"),
        ("max_replicas of 2xL4/on-demand", 2, (1, 4), "replicas"),
    ]


def test_rules_and_limits_are_carried_over(tmp_path):
    """Every rule of the file stands in the program; limits of rounds go before the file's."""
    content = stated(
        models=[served(min_replicas=3)],
        budget_usd_per_hour=50,
        max_spot_fraction=0.5,
        min_replicas_used=2,
        survive=["one-replica", "one-market"],
        utilisation_limit_fraction=0.8,
    )
    content["offers"][1]["utilisation_limit_fraction"] = 0.6
    problem = _problem(content, tmp_path, limits_fraction={(0, "A10G"): 0.3})
    rules = problem.rules
    assert (rules.budget_usd_per_hour, rules.spot_fraction_limit) == (50, 0.5)
    assert (rules.min_replicas_used, rules.min_replicas_of_model) == (2, (3,))
    assert (rules.survive_one_replica, rules.survive_one_market) == (True, True)
    assert [column.utilisation_limit_fraction for column in problem.columns] == [0.3, 0.6]
    assert _problem(content, tmp_path).columns[0].utilisation_limit_fraction == 0.8


def test_replicas_that_run_are_known_by_model_and_kind(tmp_path):
    """With a current plan a kind that it lacks runs 0 replicas; without one nothing is known."""
    running = {("m", "A100"): 2}
    columns = _problem(stated(), tmp_path, current_replicas=running).columns
    assert [column.current_replicas for column in columns] == [0, 2]
    assert _problem(stated(), tmp_path).columns[0].current_replicas is None


def test_groups_keep_models_apart(tmp_path):
    """Two models with the same ranges have rows of their own."""
    content = stated(models=[served("m"), served("n", rates=((1, 0), (0, 0)))])
    for offer in content["offers"]:
        offer["throughput_requests_per_second"] = {"m": [[1, 1], [1, 1]], "n": [[1, 1], [1, 1]]}
    config = FleetConfig.model_validate(content)
    groups = size_groups(inputs_of(content, tmp_path).models, knows_outputs=False)
    assert [(config.models[group.model].name, group.sizes) for group in groups] == [
        ("m", (0, 1)),
        ("m", (2, 3)),
        ("n", (0,)),
    ]
