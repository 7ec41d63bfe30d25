"""Which drafted tokens stay: pure rules that leave the target's output unchanged.

Rows of the target belong to a tree as in `draft_tree`: row 0 stands behind the last known token,
row `i + 1` behind node `i`. One walk serves chains and trees. At a row with the target's
distribution p it goes through the children in order:

1. A child drawn from q stays with probability min(1, p(x) / q(x)). Where it does not, p becomes the
   positive part of p - q, renormalised, and the next drawn child is tried.
2. Then the next token is drawn from what p has become. The child that is that token stays; where
   none is, the token ends the round. Children that were chosen, not drawn, come to this rule only.

Rule 2 keeps a chosen child with probability p(x), as trying it with p(x) and renormalising would,
and the token does not depend on what was guessed: with chosen children only, a seeded request emits
what it emits without drafting.

Shape letters: N nodes, V vocabulary.

Source: Leviathan et al. 2023, algorithm 1, and Chen et al. 2023, for a drawn child; Miao et al.
2024, SpecInfer, algorithm 2, for several, here with q as each was drawn from it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.sampling import Purpose

_EPSILON = 1e-9


class Noise(Protocol):
    """A request's draws from [0, 1), the same whatever runs beside it."""

    def __call__(self, offset: int, purpose: Purpose, index: int = 0) -> float:
        """Return a draw.

        Args:
            offset: Places behind the next token: 0 for the root's children.
            purpose: What it decides.
            index: Which of several for one purpose: the order among siblings.
        """
        ...


class Verdict(NamedTuple):
    """What a round emits: the tokens of `nodes`, then `token`."""

    nodes: tuple[int, ...]
    """Accepted nodes from the top down."""
    token: int
    """The target's own token behind them."""

    @property
    def rows(self) -> list[int]:
        """Verified rows that the emitted tokens were chosen from, in order."""
        return [0, *(node + 1 for node in self.nodes)]


def verify_greedy(tree: DraftTree, target_ids: Sequence[int]) -> Verdict:
    """Accept the path of nodes that each equal the target's greedy choice.

    Args:
        tree: Drafted tokens, however they came about.
        target_ids: Likeliest id of each row's processed logits, the lowest among equals.
            Length: N + 1.
    """
    return _walk(tree, lambda row, offset: (None, target_ids[row]))


def verify_sampled(
    tree: DraftTree, target_probs: Tensor | Sequence[Tensor], noise: Noise
) -> Verdict:
    """Accept nodes so that what is emitted follows the target's distribution exactly.

    Args:
        tree: Chosen or drawn tokens.
        target_probs: p of each row after every processor. Shape: (N + 1, V), or as many of (V,).
        noise: The request's draws; of each offset at most one ACCEPT per sibling and one EMIT.
    """
    children = tree.children

    def choose(row: int, offset: int) -> tuple[int | None, int]:
        weights_V, mass = target_probs[row], 1.0
        drawn = [node for node in children[row] if tree.probs[node] is not None]
        for index, node in enumerate(drawn):
            token, draft_probs_V = tree.tokens[node], tree.probs[node]
            assert draft_probs_V is not None, "filtered above"
            odds = acceptance_probability(weights_V, mass, token, draft_probs_V)
            if noise(offset, Purpose.ACCEPT, index) < odds:
                return node, token
            rest_V = residual(weights_V, mass, draft_probs_V)
            rest = float(rest_V.sum(dtype=torch.float64))
            if rest >= _EPSILON:
                weights_V, mass = rest_V, rest
            elif odds > 0:
                # p and q agree up to rounding: rejecting has probability zero in exact arithmetic.
                return node, token
        return None, draw(weights_V, noise(offset, Purpose.EMIT))

    return _walk(tree, choose)


def acceptance_probability(
    weights_V: Tensor, mass: float, token: int, draft_probs_V: Tensor
) -> float:
    """Return the probability with which a token drawn from q stays: min(1, p(x) / q(x)).

    Args:
        weights_V: p, not normalised. Shape: (V,).
        mass: Sum of the weights, above 0.
        token: What was drawn.
        draft_probs_V: q. Shape: (V,).
    """
    target_prob = float(weights_V[token]) / mass
    draft_prob = float(draft_probs_V[token])
    return target_prob / draft_prob if target_prob < draft_prob else float(target_prob > 0)


def residual(weights_V: Tensor, mass: float, draft_probs_V: Tensor) -> Tensor:
    """Return the positive part of p - q, not normalised. Shape: (V,)."""
    return (weights_V / mass - draft_probs_V).clamp_min(0.0)


def draw_children(
    probs_V: Tensor, num_children: int, uniform: Callable[[int], float]
) -> list[tuple[int, Tensor]]:
    """Draw distinct tokens, each from what the earlier ones left.

    Args:
        probs_V: Distribution of the first. Shape: (V,).
        num_children: How many to draw; fewer come where the distribution holds fewer tokens.
        uniform: Gives the draw from [0, 1) for the n-th child.

    Returns:
        Each token and the distribution it was drawn from, as `DraftTree.probs` wants them.
    """
    children: list[tuple[int, Tensor]] = []
    for index in range(num_children):
        if children:
            rest_V = probs_V.clone()
            rest_V[children[-1][0]] = 0.0
            mass = float(rest_V.sum(dtype=torch.float64))
            if mass < _EPSILON:
                break
            probs_V = rest_V / mass
        children.append((draw(probs_V, uniform(index)), probs_V))
    return children


def draw(weights_V: Tensor, uniform: float) -> int:
    """Return the index that `uniform` in [0, 1) selects from unnormalised weights. Shape: (V,).

    Inversion of the cumulative sum in float64; an index of weight zero is never returned. The
    weights are on the CPU, finite, at least 0, in float32 or coarser, and not all 0: the sum then is
    a normal float64, and its product with the largest float64 below 1 rounds to less than the sum.
    """
    cumulative_V = weights_V.cumsum(0, dtype=torch.float64).numpy()
    index = int(cumulative_V.searchsorted(uniform * cumulative_V[-1], side="right"))
    assert index < len(weights_V), "weights are finite and not all zero"
    return index


def _walk(tree: DraftTree, choose: Callable[[int, int], tuple[int | None, int]]) -> Verdict:
    """Go down from the root's place while the token chosen at a row is one of its children.

    Args:
        tree: Drafted tokens.
        choose: From a row and its offset to an accepted child, or None, and the token.
    """
    children = tree.children
    accepted: list[int] = []
    row = 0
    while True:
        node, token = choose(row, len(accepted))
        if node is None:
            node = next((i for i in children[row] if tree.tokens[i] == token), None)
        if node is None:
            return Verdict(tuple(accepted), token)
        accepted.append(node)
        row = node + 1
