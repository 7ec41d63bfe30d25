"""Drafts of one sequence while they grow, whichever model says what comes next.

Shape letters: B beam rows of one sequence, V vocabulary.
"""

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.processors import processed
from serving.engine.sampling import choices, raced
from serving.engine.sequence import Sequence


def never() -> bool:
    """Say that no draft is to stop."""
    return False


class GrowingChain:
    """A chain, chosen token by token as the target will choose, with its noise."""

    def __init__(self, sequence: Sequence) -> None:
        """Start empty."""
        self.sequence = sequence
        self.tokens: list[int] = []
        self.others: list[int] = []

    @property
    def tree(self) -> DraftTree:
        """The chain so far."""
        return DraftTree.chain(self.tokens, self.others)

    @staticmethod
    def extend(
        chains: Items["GrowingChain"], logits: Items[Tensor], *, names_others: bool = False
    ) -> None:
        """Add what the draft would choose in the target's place to each chain.

        Args:
            chains: Chains that grow.
            logits: The draft's behind each of them. Shape of each: (1, V).
            names_others: Whether to add the second likeliest to `others` too.
        """
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
            params = chain.sequence.request.params
            races = chain.sequence.races([len(chain.tokens)], logits_1V.shape[-1])
            chain.tokens.append(choices(logits_1V, params, races)[0] if races else token)
            if names_others:
                scores_1V = raced(logits_1V, params, races) if races else logits_1V
                chain.others += second_likeliest(scores_1V).tolist()


def second_likeliest(scores_NV: Tensor) -> Tensor:
    """Return the token that would be the choice of each row if the first were not there. (N,)."""
    first_N1 = scores_NV.argmax(-1, keepdim=True)
    return scores_NV.scatter(-1, first_N1, -torch.inf).argmax(-1)


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
        """Return log-probabilities behind the paths as the request races them. Shape: (B, V)."""
        params = self.sequence.request.params
        logits_BV = processed(logits_BV, params, self.sequence.histories(self._paths))
        races = self.sequence.races([len(path) for path in self._paths], logits_BV.shape[-1])
        return raced(logits_BV, params, races)
