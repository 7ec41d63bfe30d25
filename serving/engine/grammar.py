"""Grammars as masks over token ids, followed along drafted paths.

Shape letters: N rows, V vocabulary.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

GrammarKind = Literal["json_schema", "regex", "choice", "grammar"]
"""What a grammar is written as: `GrammarCompiler.compile`."""


class GrammarSource(NamedTuple):
    """A grammar as it is written; compiled, it cannot leave its process."""

    kind: GrammarKind
    text: str


class TokenMask(Protocol):
    """Where one request stands in its grammar."""

    @property
    def is_finished(self) -> bool:
        """Whether the text is whole: it has ended, or nothing but its end may follow."""

    @property
    def error(self) -> str | None:
        """Why the grammar can no longer be followed; everything is allowed from then on."""

    def advance(self, token: int) -> bool:
        """Take a token in; False, and nothing changes, where the grammar forbids it here."""

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens taken in."""

    def allowed(self) -> Tensor:
        """Return which ids may come next, boolean; the caller's own. Shape: (V,).

        Where the text may end, the ids that end it are among them. Where the grammar leads nowhere
        there is none.
        """


class Grammar(Protocol):
    """A compiled grammar, for as many requests as ask for it."""

    @property
    def source(self) -> GrammarSource:
        """What it was compiled from."""

    def start(self) -> TokenMask:
        """Return a mask of its own for one request, at the grammar's start."""


def path_masks(mask: TokenMask, paths: Sequence[Sequence[int]]) -> Tensor:
    """Return what the grammar allows behind each path of drafted tokens; `mask` ends where it was.

    A row behind a forbidden token is never reached; its mask means nothing. Shape: (N, V).
    """
    rows: list[Tensor] = []
    taken: list[int] = []
    for path in paths:
        num_shared = _num_shared(taken, path)
        mask.roll_back(len(taken) - num_shared)
        del taken[num_shared:]
        taken += _advance(mask, path[num_shared:])
        rows.append(mask.allowed())
    mask.roll_back(len(taken))
    return torch.stack(rows)


def allowed_prefix(mask: TokenMask, path: Sequence[int]) -> Sequence[int]:
    """Return the drafted tokens up to the first that the grammar forbids; `mask` ends as it was."""
    taken = _advance(mask, path)
    mask.roll_back(len(taken))
    return taken


def _num_shared(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two paths begin with in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _advance(mask: TokenMask, path: Sequence[int]) -> Sequence[int]:
    """Take in the tokens up to the first forbidden one, and return them."""
    for place, token in enumerate(path):
        if not mask.advance(token):
            return path[:place]
    return path
