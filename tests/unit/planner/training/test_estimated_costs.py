"""Costs of a model that nobody measured."""

import pytest
from training_fleets import cluster, island

from planner.errors import UnknownNameError
from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.find_model import find_model
from planner.training.device_speed import COMPUTE_FRACTION, unit_flops_per_second
from planner.training.estimated_costs import estimated_costs

CATALOGUE = built_in_catalogue()
MODEL = find_model("meta-llama/Llama-3.1-8B-Instruct", CATALOGUE)
NODE = {"device": "A100-80GB", "devices_per_node": 8, "node_bytes_per_second": 3e11}


def estimate(*islands, between=1e9):
    """Return the 8B model's costs on a cluster."""
    place = cluster(*islands, between=between)
    speed = unit_flops_per_second(place, CATALOGUE)
    return estimated_costs(MODEL, place, flops_per_second=speed)


def test_arithmetic_is_six_operations_a_parameter_and_half_of_all_pairs():
    """The 8B model on an A100 of 312 TFLOP/s, 0.6 of which is sustained."""
    found = estimate(island(**NODE))
    speed = 312e12 * COMPUTE_FRACTION
    with_head_once = MODEL.total_parameters - MODEL.vocabulary_parameters
    assert found.linear_seconds_per_token == pytest.approx(6 * with_head_once / speed, rel=0.01)
    pair = 3 * 32 * 2 * 4096  # three passes, layers, queries with keys and weights with values
    assert found.attention_seconds_per_token_squared == pytest.approx(pair / speed)
    assert (found.num_query_heads, found.num_key_value_heads, found.head_size) == (32, 8, 128)


@pytest.mark.parametrize(
    ("islands", "rate"),
    [
        ((island(**NODE),), 3e11),
        ((island(**NODE, num_nodes=2, nic_bytes_per_second=1e10),), 8e10),
        ((island(**NODE), island("b", **(NODE | {"devices_per_node": 4}))), 4e9),
    ],
)
def test_weights_are_gathered_through_the_narrowest_place(islands, rate):
    """A device's link in a node; all shares of a node or island together outside."""
    found = estimate(*islands)
    assert found.micro_batch_seconds == pytest.approx(6 * MODEL.total_parameters / rate)


def test_one_device_gathers_nothing():
    """It holds everything, and its fixed time is none."""
    assert estimate(island(**(NODE | {"devices_per_node": 1}))).micro_batch_seconds == 0.0


def test_a_device_that_no_list_has_is_told():
    """Near names, and what to do."""
    with pytest.raises(UnknownNameError, match="A1000"):
        estimate(island(**(NODE | {"device": "A1000"})))
