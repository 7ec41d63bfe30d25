"""Which islands a job is started on."""

import pytest
from training_fleets import cluster, costs, island

from planner.errors import InfeasibleError
from planner.training.islands_used import fastest_islands
from planner.training.plan_groups import plan_groups
from planner.training.sequence_costs import ModelStates, TrainingFleet

BATCHES = [(300, 200, 100, 100, 50, 50)] * 2
THREE = cluster(*(island(name) for name in "abc"))


def chosen(place, fixed, batches=BATCHES):
    """Return the choice where a micro-batch's fixed time depends on the islands' names."""

    def fleet_on(part):
        names = "".join(i.name for i in part.islands)
        return TrainingFleet(part, costs(micro_batch_seconds=fixed(names)), 12000)

    return fastest_islands(place, batches, fleet_on)


def test_all_islands_are_used_where_none_slows_the_others():
    """Equal fixed times: more devices are never worse, and nothing is to be said."""
    found = chosen(THREE, lambda names: 0.5)
    assert [i.name for i in found.fleet.cluster.islands] == ["a", "b", "c"]
    assert found.note is None


def test_an_island_whose_link_costs_more_than_it_adds_is_left_out():
    """Gathering through b takes a minute; the note names it and both times."""
    found = chosen(THREE, lambda names: 60.0 if "b" in names else 0.5)
    assert [i.name for i in found.fleet.cluster.islands] == ["a", "c"]
    assert [d.island for d in found.fleet.cluster.devices] == [0] * 4 + [1] * 4
    assert "left out: b; start the job on a, c alone" in found.note


def test_a_sequence_that_only_all_islands_hold_keeps_them():
    """Five thousand tokens need more than one island of four thousand; slow is better than not."""
    place = cluster(island("a"), island("b"))
    found = chosen(
        place,
        lambda names: 60.0 if len(names) > 1 else 0.5,
        batches=[(5000, 10)],
    )
    assert len(found.fleet.cluster.islands) == 2


def test_an_island_that_cannot_hold_its_share_of_the_model_is_left_out():
    """Each of a job's devices holds states, idle or not: one of 100 bytes cannot hold 150."""
    place = cluster(island("a"), island("small", devices_per_node=1, memory_bytes=100))
    states = (ModelStates(max_tokens=1000, num_bytes=800.0),)

    def fleet_on(part):
        return TrainingFleet(part, costs(model_states=states), 12000)

    found = fastest_islands(place, BATCHES, fleet_on)
    assert [i.name for i in found.fleet.cluster.islands] == ["a"]
    with pytest.raises(InfeasibleError, match=r"rank 4 \(island small\)"):
        plan_groups(BATCHES[0], fleet_on(place))
