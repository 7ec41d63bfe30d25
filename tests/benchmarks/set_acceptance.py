"""Drafts whose acceptance is set: real drafting work, then guesses that are right as often as stated.

A target of random weights cannot be guessed by any draft. Its greedy text is known from a run
without drafting, so a round's guesses are taken from it, down to a depth that the stated acceptance
says, and wrong from there on. What drafting and verifying cost does not depend on which tokens stand
in the tree.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import mul

import torch
from torch import Tensor

from serving.engine.draft_tree import ROOT, DraftTree
from serving.engine.drafter import Drafter
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence as Request
from serving.engine.transfer import upload

_STEP = 0.6180339887498949
"""Multiples of the golden ratio, modulo 1, fill the unit interval evenly: few rounds suffice."""


def tokens_per_round(rates: Sequence[float]) -> float:
    """Return tau: the expected tokens of a round, given acceptance by depth.

    Args:
        rates: Chance that the guess at each depth is right where those above it are.
    """
    return 1 + sum(accumulate(rates, mul))


def rates_for(tau: float, depth: int) -> list[float]:
    """Return the acceptance, the same at every depth, at which a round emits `tau` tokens.

    Raises:
        ValueError: If no round of that depth emits so many.
    """
    if not 1 <= tau <= depth + 1:
        raise ValueError(f"a round {depth} deep emits 1 to {depth + 1} tokens, not {tau}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_round([middle] * depth) < tau else (low, middle)
    return [high] * depth


def right_depth(rates: Sequence[float], uniform: float) -> int:
    """Return how many guesses of a path are right, for a number from [0, 1)."""
    return sum(uniform < reached for reached in accumulate(rates, mul))


def replayed_tree(
    text: Sequence[int], num_right: int, *, depth: int, num_nodes: int, vocabulary_size: int
) -> DraftTree:
    """Return a path that is right so far, and wrong nodes beside it until there are `num_nodes`.

    Args:
        text: What the target says next; at least one token.
        num_right: Nodes of the path that say the same.
        depth: Nodes of the path.
        num_nodes: Nodes of the tree, at least `depth`.
        vocabulary_size: Ids there are; more than nodes.
    """
    depth = min(depth, num_nodes, len(text))
    tokens = [
        text[level] if level < num_right else (text[level] + 1) % vocabulary_size
        for level in range(depth)
    ]
    parents = [ROOT, *range(depth - 1)]
    ranks = [0] * depth
    for place in range(num_nodes - depth):
        level, rank = place % depth, place // depth
        tokens.append((text[level] + 2 + rank) % vocabulary_size)
        parents.append(level - 1)
        ranks.append(rank + 1)
    return DraftTree(tuple(tokens), tuple(parents), tuple(ranks))


class ReplayingDrafter:
    """Lets a drafter work, then proposes what has the stated acceptance."""

    reads_features = False

    def __init__(
        self,
        worker: Drafter,
        texts: Mapping[str, Sequence[int]],
        rates: Sequence[float],
        *,
        vocabulary_size: int,
        features: tuple[int, torch.device] | None = None,
    ) -> None:
        """Replay `texts`.

        Args:
            worker: Whose work is done and thrown away.
            texts: Prompt and the target's greedy text behind it, by request.
            rates: Acceptance by depth, as `tokens_per_round` takes it; as deep as paths are.
            vocabulary_size: Of the target.
            features: Width of the target's hidden states, and the device to which those of every
                emitted token are copied, as Dovetail's head needs them; None copies none.
        """
        self._worker, self._texts, self._rates = worker, texts, rates
        self._vocabulary_size, self._features = vocabulary_size, features
        self._num_rounds = 0
        self._lengths: dict[str, int] = {}

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence the worker takes."""
        return self._worker.context_tokens

    @property
    def num_without_room(self) -> int:
        """Drafts the worker did not make."""
        return self._worker.num_without_room

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one tree for each sequence its worker drafts for."""
        trees = self._worker.propose(step)
        return [
            self._replayed(part) if tree.tokens else tree
            for part, tree in zip(step, trees, strict=True)
        ]

    def settle(self, sequence: Request, *others: Tensor | None) -> None:
        """Let the worker settle, and copy what Dovetail's head would be given."""
        self._worker.settle(sequence, *others)
        if self._features is not None:
            width, device = self._features
            length = len(sequence.tokens)
            before = self._lengths.get(sequence.request.request_id, length - 1)
            self._lengths[sequence.request.request_id] = length
            upload(torch.zeros(length - before, width), device)

    def _replayed(self, part: Scheduled) -> DraftTree:
        sequence = part.sequence
        text = self._texts[sequence.request.request_id][len(sequence.tokens) :]
        self._num_rounds += 1
        return replayed_tree(
            text,
            right_depth(self._rates, self._num_rounds * _STEP % 1),
            depth=min(len(self._rates), part.most_depth),
            num_nodes=part.num_drafts,
            vocabulary_size=self._vocabulary_size,
        )
