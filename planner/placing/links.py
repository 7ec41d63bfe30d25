"""What carries the traffic of a group of ranks: the slowest link that it needs."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.training.cluster import Cluster
from planner.training.placement import LinkName


@dataclass(frozen=True, slots=True)
class Link:
    """One link, as one device sees it."""

    name: LinkName
    bytes_per_second: float
    """One direction."""
    latency_seconds: float
    """Of one message; 0 inside a node."""


NO_LINK = Link("none", math.inf, 0.0)
"""Of a group of one."""


def group_link(cluster: Cluster, ranks: Sequence[int]) -> Link:
    """Return the link of one group: its node's, its island's network, or Ethernet across islands.

    RDMA networks do not reach each other, so a group in two islands has Ethernet whatever they are
    (Holmes, arXiv 2312.03549, rule 2).
    """
    if len(ranks) == 1:
        return NO_LINK
    members = [cluster.devices[rank] for rank in ranks]
    islands = {member.island for member in members}
    rate = cluster.link_bytes_per_second(ranks)
    if len(islands) > 1:
        latency = max(cluster.islands[island].nic_latency_seconds for island in islands)
        return Link("ethernet", rate, max(latency, cluster.between_islands_latency_seconds))
    island = cluster.islands[members[0].island]
    if len({member.node for member in members}) > 1:
        return Link(island.nic, rate, island.nic_latency_seconds)
    return Link("node", rate, 0.0)


def worst_link(cluster: Cluster, groups: Iterable[Sequence[int]]) -> Link:
    """Return the slowest rate and the longest latency among the groups' links."""
    rate_link, latency = NO_LINK, 0.0
    places = {_shape(cluster, group): group for group in groups}
    for group in places.values():
        link = group_link(cluster, group)
        latency = max(latency, link.latency_seconds)
        if link.bytes_per_second < rate_link.bytes_per_second:
            rate_link = link
    return Link(rate_link.name, rate_link.bytes_per_second, latency)


def _shape(cluster: Cluster, ranks: Sequence[int]) -> tuple[frozenset[int], bool]:
    """Return what decides a group's link: groups on the same nodes have the same."""
    return frozenset(cluster.devices[rank].node for rank in ranks), len(ranks) > 1
