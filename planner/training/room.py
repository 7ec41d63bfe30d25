"""Which devices of the cluster are still free in one micro-batch, and where a group is put."""

from planner.training.cluster import Cluster
from planner.training.group_kinds import GroupKind, families_of

Piece = tuple[int, int]
"""Devices side by side in one node: the first rank, and how many."""


class Floor:
    """The cluster's nodes as every micro-batch begins with them."""

    def __init__(self, cluster: Cluster) -> None:
        """Number the nodes."""
        self.families = families_of(cluster)
        self.node_end: list[int] = []
        """Rank after the last device of each node."""
        self.empty: list[list[list[int]]] = []
        """By island and free devices, the nodes with that many; lowest last, to be taken first."""
        self.num_free: list[int] = []
        """By island."""
        end = 0
        for island in cluster.islands:
            first = len(self.node_end)
            for _ in range(island.num_nodes):
                end += island.devices_per_node
                self.node_end.append(end)
            nodes = list(range(len(self.node_end) - 1, first - 1, -1))
            self.empty.append([[] for _ in range(island.devices_per_node)] + [nodes])
            self.num_free.append(island.num_devices)


class Room:
    """The free devices of one micro-batch; `take` changes it."""

    def __init__(self, floor: Floor) -> None:
        """Begin with every device free."""
        self._floor = floor
        self._nodes = [[list(nodes) for nodes in island] for island in floor.empty]
        self._num_free = list(floor.num_free)
        self.num_free = sum(self._num_free)

    def take(self, kind: GroupKind) -> tuple[Piece, ...] | None:
        """Take the devices of one group; None where the kind has no room left."""
        degree = kind.cost.degree
        if degree > self.num_free:
            return None
        if kind.reach == "node":
            return self._take_in_node(kind.families[0], degree)
        if kind.reach == "island":
            return self._take_in_island(kind.families[0], degree)
        return self._take_across(kind.families, degree)

    def _take_in_node(self, family: int, degree: int) -> tuple[Piece, ...] | None:
        """Take them from the node that this leaves with the least."""
        best: tuple[int, int] | None = None
        for island in self._floor.families[family]:
            for free in range(degree, len(self._nodes[island])):
                if best is not None and free >= best[0]:
                    break
                if self._nodes[island][free]:
                    best = free, island
        return None if best is None else (self._piece(best[1], best[0], degree),)

    def _take_in_island(self, family: int, degree: int) -> tuple[Piece, ...] | None:
        fitting = [i for i in self._floor.families[family] if self._num_free[i] >= degree]
        if not fitting:
            return None
        island = min(fitting, key=lambda i: self._num_free[i])
        return tuple(self._pieces(island, degree))

    def _take_across(self, families: tuple[int, ...], degree: int) -> tuple[Piece, ...] | None:
        """Take the slowest first: they cost a group that they are in nothing more."""
        islands = [i for family in reversed(families) for i in self._floor.families[family]]
        if sum(self._num_free[i] for i in islands) < degree:
            return None
        pieces: list[Piece] = []
        for island in islands:
            share = min(degree, self._num_free[island])
            pieces += self._pieces(island, share)
            degree -= share
        return tuple(pieces)

    def _pieces(self, island: int, degree: int) -> list[Piece]:
        """Take whole nodes first, then the node that the rest leaves with the least."""
        nodes, pieces = self._nodes[island], []
        while degree:
            fitting = next((f for f in range(degree, len(nodes)) if nodes[f]), None)
            if fitting is None:
                fitting = next(f for f in range(len(nodes) - 1, 0, -1) if nodes[f])
            share = min(degree, fitting)
            pieces.append(self._piece(island, fitting, share))
            degree -= share
        return pieces

    def _piece(self, island: int, free: int, degree: int) -> Piece:
        nodes = self._nodes[island]
        node = nodes[free].pop()
        nodes[free - degree].append(node)
        self._num_free[island] -= degree
        self.num_free -= degree
        return self._floor.node_end[node] - free, degree
