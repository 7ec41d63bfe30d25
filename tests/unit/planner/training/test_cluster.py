"""Clusters: who sits where, and what joins them."""

import pytest
from pydantic import ValidationError
from training_fleets import cluster, island

from planner.training.cluster import Cluster


def test_ranks_count_islands_then_nodes_then_devices():
    """Device 5 of 2 nodes of 4 and one of 2 is the second of the second node."""
    devices = cluster(island(num_nodes=2), island("b", devices_per_node=2)).devices
    assert [d.rank for d in devices] == list(range(10))
    assert [d.node for d in devices] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
    assert [d.island for d in devices] == [0] * 8 + [1, 1]


@pytest.mark.parametrize(
    ("ranks", "rate"), [((0, 3), 1000.0), ((3, 4), 100.0), ((8, 9), 500.0), ((0, 8), 10.0)]
)
def test_the_worst_link_of_a_group_decides(ranks, rate):
    """In a node its link, between nodes the network, between islands Ethernet."""
    unlike = island("b", node_bytes_per_second=500.0, nic="roce")
    assert cluster(island(num_nodes=2), unlike).link_bytes_per_second(ranks) == rate


def test_an_island_of_one_device_is_a_place_like_any_other():
    """A lone device reaches others over Ethernet only."""
    found = cluster(island(devices_per_node=1), island("b", devices_per_node=1))
    assert found.link_bytes_per_second((0, 1)) == 10.0


@pytest.mark.parametrize(
    ("islands", "words"),
    [((island(), island()), "stands 2 times"), ((island(), island("b")), "is missing with 2")],
)
def test_a_cluster_that_is_not_whole_is_refused(islands, words):
    """Names are unique, and several islands need a link between them."""
    with pytest.raises(ValidationError, match=words):
        Cluster(schema_version=1, islands=islands)
