"""The cost model of sequence-parallel groups."""

import pytest
from pydantic import ValidationError
from training_fleets import costs, fleet, island

from planner.training.sequence_costs import ModelStates


def test_a_groups_time_is_the_published_formula():
    """Two devices, lengths 100 and 300, 16 bytes a token exchanged at 1,000 bytes a second."""
    found = fleet().group_cost((0, 1))
    exchanged = 2 * 1 * (4 * 4) * 1 * 2 * 400 / 2 / 1000
    compute = (1e-4 * (100**2 + 300**2) + 0.01 * 400) / 2
    assert found.seconds((100, 300)) == pytest.approx(compute + exchanged + 0.5)
    assert found.capacity_tokens == 2000


def test_one_device_exchanges_nothing():
    """Degree 1 pays arithmetic and the fixed time alone."""
    assert fleet().group_cost((2,)).seconds((100,)) == pytest.approx(1.0 + 1.0 + 0.5)


def test_a_mixed_group_is_as_slow_as_its_slowest_and_holds_what_its_smallest_holds():
    """Speed, memory and link are each the worst among the members."""
    slow = island("b", relative_speed=0.5, memory_bytes=600)
    found = fleet(island(), slow).group_cost((3, 4))
    assert found.capacity_tokens == 1200
    assert found.seconds_per_token_squared == pytest.approx(1e-4 / (2 * 0.5))
    assert found.seconds_per_token == pytest.approx(0.01 / (2 * 0.5) + 64 / (2 * 10.0))


@pytest.mark.parametrize(("kv_heads", "degree", "sent"), [(4, 4, 8 + 8), (2, 4, 8 + 8), (2, 2, 12)])
def test_copied_key_value_heads_are_costed(kv_heads, degree, sent):
    """Two key-value heads on four devices travel as four; on two they need no copies."""
    found = costs(num_key_value_heads=kv_heads)
    assert found.exchanged_bytes_per_token(degree) == 2 * sent * 2


def test_degrees_divide_the_query_heads():
    """Six heads on four devices offer 1, 2 and 3; whoever ignores heads gets powers of two."""
    heads = {"num_query_heads": 6, "num_key_value_heads": 2}
    assert fleet(**heads).degrees == (1, 2, 3)
    assert fleet(ignores_heads=True, **heads).degrees == (1, 2, 4)


def test_measured_rates_serve_the_next_smaller_degrees_and_everything_beyond():
    """A table of 2 and 8 gives 4 the rate of 8, and 16 that of 8 too."""
    found = costs(all_to_all_bytes_per_second={2: 50.0, 8: 20.0})
    assert [found.tabled_rate(d) for d in (2, 4, 8, 16)] == [50.0, 20.0, 20.0, 20.0]


def test_states_grow_on_straight_lines_and_shard_as_said():
    """Between and beyond the points, and an eighth of ZeRO-2's states is everywhere."""
    points = tuple(
        ModelStates(max_tokens=n, num_bytes=b) for n, b in ((1000, 800.0), (2000, 1600.0))
    )
    found = costs(model_states=points)
    for max_tokens, whole in ((1000, 800.0), (1500, 1200.0), (3000, 2400.0), (500, 400.0)):
        assert found.state_bytes(max_tokens=max_tokens, num_devices=4) == pytest.approx(whole / 4)
    partly = costs(model_states=points, sharding="zero2")
    assert partly.state_bytes(max_tokens=1000, num_devices=4) == pytest.approx(100 + 700 / 4)


def test_states_take_room_from_tokens():
    """A device of 1,000 bytes with 300 of states holds 350 tokens of two bytes."""
    states = (ModelStates(max_tokens=1000, num_bytes=1200.0),)
    found = fleet(model_states=states, activation_bytes_per_token=2.0)
    assert found.device_capacities == (350,) * 4


def test_costs_that_contradict_themselves_are_refused():
    """Heads that do not divide, and points out of order."""
    with pytest.raises(ValidationError, match="does not divide"):
        costs(num_key_value_heads=3)
    points = tuple(ModelStates(max_tokens=n, num_bytes=0.0) for n in (2, 1))
    with pytest.raises(ValidationError, match="do not ascend"):
        costs(model_states=points)
