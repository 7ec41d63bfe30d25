"""How deep a draft holds: acceptance at each depth on text it has not seen.

A chain starts behind every token of a text. Where all of a chain's earlier guesses were the text's
own tokens, the target has read the same tokens, so its likeliest next token is known, and the next
guess is accepted if it is that token. Text that the target itself wrote greedily makes this the
acceptance of greedy decoding.

Shape letters: n tokens of a text, N chains, E the target's hidden size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from serving.engine.dovetail_head import DovetailHead

DEPTHS = 5
"""Depths that are judged."""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Counts by depth, the first depth first; `+` adds two."""

    num_reached: tuple[int, ...] = (0,) * DEPTHS
    """Chains whose earlier guesses were all the text's."""
    num_accepted: tuple[int, ...] = (0,) * DEPTHS
    """Those whose guess at this depth is the target's likeliest token."""

    @property
    def fractions(self) -> tuple[float, ...]:
        """Share accepted at each depth of the chains that reached it; 0 where none did."""
        return tuple(
            accepted / max(reached, 1)
            for accepted, reached in zip(self.num_accepted, self.num_reached, strict=True)
        )

    def __add__(self, other: "Acceptance") -> "Acceptance":
        return Acceptance(
            tuple(a + b for a, b in zip(self.num_reached, other.num_reached, strict=True)),
            tuple(a + b for a, b in zip(self.num_accepted, other.num_accepted, strict=True)),
        )


@torch.inference_mode()
def head_acceptance(
    head: DovetailHead,
    *,
    embedding: Tensor,
    output_head: Tensor,
    ids: Tensor,
    features: Tensor,
    mask: Tensor | None = None,
) -> Acceptance:
    """Judge chains of a head that feed back its own features.

    Args:
        head: The head.
        embedding: The target's embedding. Shape: (V, E).
        output_head: The weight of the target's head. Shape: (V, E).
        ids: A text. Shape: (n,).
        features: The target's features of it. Shape: (n, E).
        mask: 1 at tokens that count as a chain's start; None: all. Shape: (n,).
    """
    true_n = functional.linear(features, output_head).argmax(-1)
    embeddings = functional.embedding(ids[1:], embedding)
    chains = head.unroll(features[None, :-1], embeddings[None])
    guesses = []
    for _, predicted in zip(range(DEPTHS), chains, strict=False):
        guesses.append(functional.linear(predicted[0], output_head).argmax(-1))
    starts = None if mask is None else mask[1:] > 0
    return follow(guesses, true_n=true_n[1:], ids=ids[1:], starts=starts)


def follow(
    guesses: Iterable[Tensor], *, true_n: Tensor, ids: Tensor, starts: Tensor | None = None
) -> Acceptance:
    """Count how far chains are right, from their guesses along the text.

    Args:
        guesses: By depth, what each chain says follows token i + d - 1; the last chains of a text
            may be missing.
        true_n: What the target says follows token i. Shape: (n,).
        ids: The text. Shape: (n,).
        starts: Which chains count; None: all. Shape: (n,).
    """
    reached, accepted = [], []
    alive = torch.ones(len(ids), dtype=torch.bool, device=ids.device) if starts is None else starts
    for depth, guess in enumerate(guesses):
        alive = alive[: len(guess)]
        reached.append(int(alive.sum()))
        accepted.append(int((alive & (guess == true_n[depth : depth + len(guess)])).sum()))
        following = ids[depth + 1 : depth + 1 + len(guess)]
        alive = alive[: len(following)] & (guess[: len(following)] == following)
    missing = (0,) * (DEPTHS - len(reached))
    return Acceptance((*reached, *missing), (*accepted, *missing))
