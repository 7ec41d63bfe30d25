"""Trees of drafted tokens, and how they grow from the drafter's log-probabilities.

The root's place is the last known token. It is no node: nodes count from 0, and a parent of -1 is
the root's place. The target verifies one row for the root's place and one for each node, so node
`i` owns row `i + 1`.

Shape letters: S sequences, B beam rows of one sequence, C children of one beam row, V vocabulary,
L tree nodes collected so far.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from serving.engine.transfer import download

ROOT = -1
"""The parent of a tree's first nodes: the last known token."""


@dataclass(frozen=True, slots=True, eq=False)
class DraftTree:
    """Drafted tokens, parents before their children. A chain is a tree without forks."""

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    """Node before each node; -1 is the root's place."""
    ranks: tuple[int, ...] = ()
    """Place of each node among its siblings by the drafter's own odds, from 0, the likeliest."""
    others: tuple[int, ...] = ()
    """Of a chain whose drafter was asked for them: the second likeliest token at each place."""

    def __post_init__(self) -> None:
        """Refuse what no tree is.

        Raises:
            ValueError: If lengths differ, a parent does not precede its child, or two siblings hold
                one token.
        """
        if not len(self.tokens) == len(self.parents) == len(self.ranks):
            raise ValueError(
                f"{len(self.tokens)} tokens, {len(self.parents)} parents and {len(self.ranks)} "
                "ranks are no tree; give as many of each"
            )
        known = set()
        for node, (token, parent) in enumerate(zip(self.tokens, self.parents, strict=True)):
            if not ROOT <= parent < node:
                raise ValueError(f"parent {parent} of node {node} does not precede it; reorder")
            if (parent, token) in known:
                raise ValueError(f"token {token} is twice a child of node {parent}; merge them")
            known.add((parent, token))

    @classmethod
    def chain(cls, tokens: Sequence[int], others: Sequence[int] = ()) -> Self:
        """Return the tree without forks."""
        parents = tuple(range(ROOT, len(tokens) - 1))
        return cls(tuple(tokens), parents, (0,) * len(tokens), tuple(others))

    def __len__(self) -> int:
        """Number of nodes, the root's place not counted."""
        return len(self.tokens)

    @property
    def depths(self) -> list[int]:
        """Places behind the last known token, at least 1, of each node."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(1 if parent == ROOT else depths[parent] + 1)
        return depths

    @property
    def paths(self) -> list[tuple[int, ...]]:
        """Each node's ancestors from the top down, and itself: the nodes it may attend to."""
        paths: list[tuple[int, ...]] = []
        for node, parent in enumerate(self.parents):
            paths.append((*(() if parent == ROOT else paths[parent]), node))
        return paths

    @property
    def row_paths(self) -> list[tuple[int, ...]]:
        """Drafted tokens that each verified row stands behind: () for the root's place, then nodes."""
        return [(), *(tuple(self.tokens[i] for i in path) for path in self.paths)]

    @property
    def children(self) -> list[list[int]]:
        """Children of each verified row in order: `children[node + 1]`, the root's place first."""
        children: list[list[int]] = [[] for _ in range(len(self) + 1)]
        for node, parent in enumerate(self.parents):
            children[parent + 1].append(node)
        return children


class Beam(NamedTuple):
    """The nodes to run next, sequences side by side, each in order of creation."""

    tokens: Tensor
    """Token of each node. Shape: (S, B)."""
    parent_rows: Tensor
    """Row of each node's parent in the previous beam; 0, the root's place, at first. (S, B)."""


class TreeBuilder:
    """Grows dynamic trees for several sequences in step, whatever model gives the probabilities.

    Each level offers the likeliest children of every beam row; those with the best cumulative
    log-probability are the next beam, and the best of all levels become the tree. Among equals the
    lower parent wins, then the lower token id. Everything stays on the drafter's device until
    `trees`.

    Source: Li et al. 2024, EAGLE-2, section 4.
    """

    def __init__(self, *, beam_width: int) -> None:
        """Keep `beam_width` nodes a level, and offer as many children of each."""
        if beam_width < 1:
            raise ValueError(f"beam width {beam_width} is below 1; keep at least one node a level")
        self._width = beam_width
        self._tokens: list[Tensor] = []  # (S, B * C) each
        self._parents: list[Tensor] = []  # node numbers
        self._scores: list[Tensor] = []
        self._beam_nodes: Tensor | None = None  # (S, B)
        self._beam_scores: Tensor | None = None

    def grow(self, log_probs_SBV: Tensor) -> Beam:
        """Add a level.

        Args:
            log_probs_SBV: Log-probabilities behind each row of the last beam; at first behind the
                root's place, with one row. Tokens of -inf never enter a tree, nor any of a row
                without a possible token, whose values may be no numbers. Shape: (S, B, V).

        Returns:
            The next beam. Places that no possible token is left for hold token 0, which every model
            can run, and nothing grows behind them.
        """
        num_sequences, num_rows, _ = log_probs_SBV.shape
        if self._beam_nodes is None:
            above_SB = log_probs_SBV.new_zeros(num_sequences, num_rows, dtype=torch.float64)
            nodes_SB = torch.full_like(above_SB, ROOT, dtype=torch.long)
        else:
            assert self._beam_scores is not None, "set together"
            nodes_SB, above_SB = self._beam_nodes, self._beam_scores
        ids_SBC, values_SBC = _likeliest(log_probs_SBV, self._width)
        values_SBC = values_SBC.double().masked_fill(values_SBC.isnan(), -torch.inf)
        # Never above the parent, by rounding either: a set of best nodes then holds its parents.
        scores_SL = (above_SB[..., None] + values_SBC.clamp_max(0.0)).flatten(1)
        ids_SL = ids_SBC.flatten(1)
        num_children = ids_SBC.shape[-1]
        first_node = sum(tokens.shape[1] for tokens in self._tokens)
        self._tokens.append(ids_SL)
        self._parents.append(nodes_SB[..., None].expand(-1, -1, num_children).flatten(1))
        self._scores.append(scores_SL)
        best_SB = _best(scores_SL, self._width)
        self._beam_nodes = best_SB + first_node
        self._beam_scores = scores_SL.gather(1, best_SB)
        # Which impossible tokens `topk` returns is not defined; a draft may not even have a row for them.
        tokens_SB = ids_SL.gather(1, best_SB).masked_fill(self._beam_scores.isinf(), 0)
        return Beam(tokens_SB, best_SB // num_children)

    def trees(self, max_nodes: Sequence[int]) -> list[DraftTree]:
        """Return each sequence's tree of its likeliest nodes, at most `max_nodes` of them."""
        if not self._scores:
            return [DraftTree() for _ in max_nodes]
        scores_SL = torch.cat(self._scores, dim=1)
        best_SN = _best(scores_SL, max(max_nodes), in_order=False)
        finite_SN = scores_SL.gather(1, best_SN).isfinite()
        tokens, parents, kept, finite = _fetched(
            torch.cat(self._tokens, dim=1), torch.cat(self._parents, dim=1), best_SN, finite_SN
        )
        trees = []
        for row, nodes in enumerate(kept):
            best = [n for n, ok in zip(nodes[: max_nodes[row]], finite[row], strict=False) if ok]
            kept_parents = [parents[row][node] for node in best]
            ranks = {n: kept_parents[:i].count(kept_parents[i]) for i, n in enumerate(best)}
            chosen = sorted(best)
            place = {ROOT: ROOT} | {node: i for i, node in enumerate(chosen)}
            trees.append(
                DraftTree(
                    tuple(tokens[row][node] for node in chosen),
                    tuple(place[parents[row][node]] for node in chosen),
                    tuple(ranks[node] for node in chosen),
                )
            )
        return trees


def _fetched(*tables: Tensor) -> list[list[list[int]]]:
    """Return tables with one row a sequence as plain numbers, in one copy. Shape: (S, ...) each."""
    joined = download(torch.cat([table.long() for table in tables], dim=1))
    return [table.tolist() for table in torch.split(joined, [t.shape[1] for t in tables], dim=1)]


def _likeliest(log_probs_SBV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the likeliest ids of each row in ascending order of id, and their values."""
    vocabulary_size = log_probs_SBV.shape[-1]
    count = min(count, vocabulary_size)
    found, ids = log_probs_SBV.topk(min(count + 1, vocabulary_size))
    values, last = found[..., :count], found[..., count - 1 : count]
    ids = ids[..., :count]
    if count < vocabulary_size and bool(((last == found[..., count:]) & last.isfinite()).any()):
        # Which of several equals `topk` returns is not defined: put the lowest ids in their place.
        every_id = torch.arange(vocabulary_size, device=ids.device)
        equals = torch.where(log_probs_SBV == last, every_id, vocabulary_size)
        equals = equals.topk(count, largest=False).values
        place = every_id[:count] - (values > last).sum(-1, keepdim=True)
        ids = torch.where(place < 0, ids, equals.gather(-1, place.clamp_min(0)))
    ids, order = ids.sort(dim=-1)
    return ids, values.gather(-1, order)


def _best(scores_SL: Tensor, count: int, *, in_order: bool = True) -> Tensor:
    """Return the indices of each row's best scores, the first among equals; sorted if `in_order`."""
    best = scores_SL.sort(dim=1, descending=True, stable=True).indices[:, :count]
    return best.sort(dim=1).values if in_order else best
