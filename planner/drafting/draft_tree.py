"""The tree of drafted tokens that is accepted furthest, for acceptance by depth and rank."""

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Acceptance = tuple[tuple[float, ...], ...]
"""Chance, by depth and rank, that a drafted token is the target's, its parent being so: row d is of
the tokens d + 1 below the root, column r of the child its draft ranked r + 1. Siblings exclude one
another, so a row sums to 1 at most."""

_ROUNDING = 1e-9

_Waiting = tuple[float, int, tuple[int, ...]]
"""Product along a path, negative; depth; path."""


@dataclass(frozen=True, slots=True)
class DraftTree:
    """A tree under the token already emitted, its root."""

    paths: tuple[tuple[int, ...], ...]
    """Every drafted node by the ranks on its way from the root, parents before children."""
    depth: int
    """Drafted tokens of the longest path."""
    top_k: int
    """Beam that can draw it: the highest rank used, or the most nodes expanded at one depth."""
    tokens_per_round: float
    """Expected tokens a verification emits, the target's own among them: tau."""

    @property
    def rows(self) -> int:
        """Rows to verify, the root among them."""
        return len(self.paths) + 1


def chain_acceptance(by_depth: Iterable[float]) -> Acceptance:
    """Return the table of a draft of one guess a depth."""
    return tuple((chance,) for chance in by_depth)


def checked_acceptance(table: Sequence[Sequence[float]]) -> Acceptance:
    """Return the table as a value.

    Raises:
        ValueError: If it is empty, holds anything but chances, or a row sums to more than 1.
    """
    if not table:
        raise ValueError("acceptance has no depth; give at least one")
    for depth, ranks in enumerate(table, start=1):
        if not ranks:
            raise ValueError(f"acceptance at depth {depth} has no rank; give at least one")
        for chance in ranks:
            if not (math.isfinite(chance) and 0 <= chance <= 1):
                raise ValueError(f"acceptance {chance} at depth {depth}; give a chance from 0 to 1")
        if sum(ranks) > 1 + _ROUNDING:
            raise ValueError(
                f"acceptances at depth {depth} sum to {sum(ranks):.4g}; siblings exclude one "
                "another, give at most 1 in all"
            )
    return tuple(tuple(ranks) for ranks in table)


def best_trees(acceptance: Acceptance, *, most_nodes: int) -> tuple[DraftTree, ...]:
    """Return the best tree of 1, 2, ... `most_nodes` drafted nodes; fewer where none can be accepted.

    tau = 1 + sum over nodes of the product of acceptances along the node's path; of a chain of k
    with one acceptance a that is (1 - a^(k + 1)) / (1 - a).

    Taking nodes by falling product is optimal: a child's product never exceeds its parent's, so
    the n largest products of all are closed under parents, and no n nodes have a larger sum.

    Args:
        acceptance: By depth and rank; as deep and wide as the trees may be.
        most_nodes: Most drafted nodes, at least 0.

    Source: Sequoia, arXiv 2402.12374, section 3.1 (acceptance by rank); EAGLE-2, arXiv 2406.16858,
    section 4.2 (the best nodes by product). A tree drawn from the draft's own probabilities each
    round, as EAGLE-2 does, is accepted further than this mean.
    """
    trees: list[DraftTree] = []
    paths: list[tuple[int, ...]] = []
    expanded: list[set[tuple[int, ...]]] = [set() for _ in acceptance]
    depth = top_k = 0
    tokens = 1.0
    # Of equal products the shallowest first: parents before children, and less to draft.
    heap: list[_Waiting] = [(-chance, 1, (rank,)) for rank, chance in enumerate(acceptance[0])]
    heapq.heapify(heap)
    while heap and len(paths) < most_nodes and heap[0][0] < 0:
        product, level, path = heapq.heappop(heap)
        paths.append(path)
        tokens -= product
        depth = max(depth, level)
        parents = expanded[level - 1]
        parents.add(path[:-1])
        top_k = max(top_k, path[-1] + 1, len(parents))
        trees.append(DraftTree(tuple(paths), depth, top_k, tokens))
        if level < len(acceptance):
            for rank, chance in enumerate(acceptance[level]):
                heapq.heappush(heap, (product * chance, level + 1, (*path, rank)))
    return tuple(trees)
