"""Drafts of one sequence while they grow, whichever model says what comes next.

Shape letters: B beam rows of one sequence, V vocabulary.
"""

import logging
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from serving.engine.acceptance import draw
from serving.engine.draft_tree import ROOT, DraftTree
from serving.engine.processors import processed
from serving.engine.sampling import Purpose, probabilities
from serving.engine.sequence import Sequence

logger = logging.getLogger(__name__)


class GrowingChain:
    """A chain, drawn or chosen token by token from what the request makes of the logits."""

    def __init__(self, sequence: Sequence, *, draws: bool) -> None:
        """Start empty; `draws` draws the tokens of a sampled request, else they are chosen."""
        self.sequence = sequence
        self.tokens: list[int] = []
        self._is_drawn = draws and not sequence.request.params.is_greedy
        self._probs: list[Tensor | None] = []

    @staticmethod
    def extend(chains: Items["GrowingChain"], logits: Items[Tensor]) -> None:
        """Add a token to each chain, given the model's logits behind it. Shape of each: (1, V)."""
        rows = [
            processed(
                logits_1V,
                chain.sequence.request.params,
                chain.sequence.histories([chain.tokens]),
            )
            for chain, logits_1V in zip(chains, logits, strict=True)
        ]
        likeliest = torch.cat(rows).argmax(-1).tolist()
        for chain, logits_1V, token in zip(chains, rows, likeliest, strict=True):
            probs_V = chain._probabilities(logits_1V) if chain._is_drawn else None
            if probs_V is not None:
                token = draw(probs_V, chain.sequence.noise(len(chain.tokens), Purpose.DRAFT))
            chain.tokens.append(token)
            chain._probs.append(probs_V)

    def _probabilities(self, logits_1V: Tensor) -> Tensor | None:
        """Return what to draw from; None where the draft computed no distribution."""
        probs_V = probabilities(logits_1V, self.sequence.request.params)[0].cpu()
        if bool(probs_V.isfinite().all()):
            return probs_V
        logger.warning(
            "draft logits are not finite request_id=%s place=%d",
            self.sequence.request.request_id,
            len(self.tokens),
        )
        return None

    def tree(self) -> DraftTree:
        """Return what was guessed, with the distributions it was drawn from."""
        parents = tuple(range(ROOT, len(self.tokens) - 1))
        return DraftTree(tuple(self.tokens), parents, tuple(self._probs))


class GrowingPaths:
    """The paths down to the last beam of a tree, the root's place alone at first."""

    def __init__(self, sequence: Sequence) -> None:
        """Start with the root's place."""
        self.sequence = sequence
        self._paths: list[tuple[int, ...]] = [()]

    def __len__(self) -> int:
        """Number of paths."""
        return len(self._paths)

    def take(self, tokens: Items[int], parent_rows: Items[int]) -> None:
        """Go on to the next beam, given the row of each node's parent in the last one."""
        self._paths = [
            (*self._paths[row], token) for row, token in zip(parent_rows, tokens, strict=True)
        ]

    def log_probs(self, logits_BV: Tensor) -> Tensor:
        """Return log-probabilities behind the paths as the request has them. Shape: (B, V)."""
        histories = self.sequence.histories(self._paths)
        return processed(logits_BV, self.sequence.request.params, histories).log_softmax(-1)
