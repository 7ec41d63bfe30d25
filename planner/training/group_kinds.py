"""Every kind of group a fleet offers: its degree, where its devices sit, and what it costs.

Devices of one node are interchangeable, nodes of an island are, and so are islands alike in all that
a cost depends on: they form a *family*. A kind is a degree inside one node of a family, over the
nodes of one island of a family, or across islands of some families.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from planner.training.cluster import Cluster, Island
from planner.training.sequence_costs import GroupCost, TrainingFleet

Reach = Literal["node", "island", "islands"]

MOST_FAMILIES_COMBINED = 4
"""With more families, only those next to each other in the order of speed share groups."""


@dataclass(frozen=True, slots=True)
class GroupKind:
    """Groups that cost the same.

    Attributes:
        reach: What its devices have in common.
        families: Positions in `families_of`; one unless it reaches across islands.
        cost: What each such group holds and takes.
        weight: Its devices in units of the cost model's device: what it uses up of the fleet.
    """

    reach: Reach
    families: tuple[int, ...]
    cost: GroupCost
    weight: float


def families_of(cluster: Cluster) -> tuple[tuple[int, ...], ...]:
    """Return the positions of islands that are alike, the fastest and largest devices first."""
    alike: dict[tuple[float, ...], list[int]] = {}
    for position, island in enumerate(cluster.islands):
        alike.setdefault(_traits(island), []).append(position)
    return tuple(tuple(alike[traits]) for traits in sorted(alike, reverse=True))


def group_kinds(fleet: TrainingFleet) -> tuple[GroupKind, ...]:
    """Return every kind that holds at least one token, those that use least per token first."""
    families = families_of(fleet.cluster)
    kinds = [
        *_inside_islands(fleet, families),
        *_across_islands(fleet, families),
    ]
    useful = [kind for kind in kinds if kind.cost.capacity_tokens > 0]
    return tuple(sorted(useful, key=lambda kind: (kind.weight * _typical(kind), kind.cost.degree)))


def has_all_kinds(cluster: Cluster) -> bool:
    """Tell whether any group of the cluster costs what one of `group_kinds` does."""
    return len(families_of(cluster)) <= MOST_FAMILIES_COMBINED


def most_tokens(kinds: Sequence[GroupKind]) -> int:
    """Return the longest sequence that some kind holds; 0 where the model's states fill all."""
    return max((kind.cost.capacity_tokens for kind in kinds), default=0)


def _traits(island: Island) -> tuple[float, ...]:
    return (
        island.relative_speed,
        float(island.memory_bytes),
        island.node_bytes_per_second,
        island.nic_bytes_per_second,
        float(island.devices_per_node),
    )


def _typical(kind: GroupKind) -> float:
    """Time of one sequence of 1,024 tokens, to sort by."""
    return kind.cost.seconds([1024]) - kind.cost.fixed_seconds


def _inside_islands(fleet: TrainingFleet, families: Sequence[Sequence[int]]) -> Iterator[GroupKind]:
    cluster = fleet.cluster
    for number, members in enumerate(families):
        island = cluster.islands[members[0]]
        ranks = [device.rank for device in cluster.devices if device.island == members[0]]
        for degree in fleet.degrees:
            if degree > island.num_devices:
                break
            weight = degree * island.relative_speed
            inside = spread = None
            if degree <= island.devices_per_node:
                inside = fleet.group_cost(ranks[:degree])
            if degree > 1 and island.num_nodes > 1:
                other = ranks[island.devices_per_node]  # the first of the second node
                rest = [rank for rank in ranks if rank != other]
                spread = fleet.group_cost([other, *rest[: degree - 1]])
                yield GroupKind("island", (number,), spread, weight)
            if inside is not None and inside != spread:
                yield GroupKind("node", (number,), inside, weight)


def _across_islands(fleet: TrainingFleet, families: Sequence[Sequence[int]]) -> Iterator[GroupKind]:
    islands = fleet.cluster.islands
    by_island: list[list[int]] = [[] for _ in islands]
    for device in fleet.cluster.devices:
        by_island[device.island].append(device.rank)
    for chosen in _combinations(len(families)):
        members = [position for number in chosen for position in families[number]]
        if len(members) == 1:
            continue
        first = [by_island[families[number][0]][0] for number in chosen]
        if len(first) == 1:
            first.append(by_island[members[1]][0])
        rest = [r for i in members for r in by_island[i] if r not in first]
        fastest = max(islands[position].relative_speed for position in members)
        for degree in fleet.degrees:
            if len(first) <= degree <= len(first) + len(rest):
                cost = fleet.group_cost([*first, *rest[: degree - len(first)]])
                yield GroupKind("islands", chosen, cost, degree * fastest)


def _combinations(num_families: int) -> Iterator[tuple[int, ...]]:
    if num_families <= MOST_FAMILIES_COMBINED:
        for size in range(1, num_families + 1):
            yield from itertools.combinations(range(num_families), size)
    else:
        for start in range(num_families):
            for end in range(start + 1, num_families + 1):
                yield tuple(range(start, end))
