"""Grammars as masks over token ids, followed along the paths of a draft tree.

Shape letters: N nodes of a tree, V vocabulary.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from serving.engine.draft_tree import DraftTree


class TokenMask(Protocol):
    """Where one request stands in its grammar."""

    def advance(self, token: int) -> bool:
        """Take a token in; False, and nothing changes, where the grammar forbids it here."""
        ...

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens taken in."""
        ...

    def allowed(self) -> Tensor:
        """Return which ids may come next, boolean, at least one; the caller's own. Shape: (V,).

        Where the text may end, the ids that end it are among them.
        """
        ...


def tree_masks(mask: TokenMask, tree: DraftTree) -> Tensor:
    """Return what the grammar allows behind each row of a tree; `mask` ends where it was.

    Rows behind a forbidden token are never reached; they allow all. Shape: (N + 1, V).
    """
    children = tree.children
    rows: list[Tensor | None] = [None] * len(children)

    def visit(row: int) -> None:
        rows[row] = mask.allowed()
        for node in children[row]:
            if mask.advance(tree.tokens[node]):
                visit(node + 1)
                mask.roll_back(1)

    visit(0)
    first = rows[0]
    assert first is not None, "the root's place is always visited"
    return torch.stack([torch.ones_like(first) if row is None else row for row in rows])


def mask_behind(mask: TokenMask, path: Sequence[int]) -> Tensor | None:
    """Return what the grammar allows behind drafted tokens; None where it forbids one of them.

    `mask` ends where it was. Shape: (V,).
    """
    taken = 0
    try:
        for token in path:
            if not mask.advance(token):
                return None
            taken += 1
        return mask.allowed()
    finally:
        mask.roll_back(taken)
