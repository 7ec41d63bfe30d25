"""Which drafted tokens stay: one pure rule that leaves the target's output as it is.

Rows of the target belong to a tree as in `draft_tree`: row 0 stands behind the last known token,
row `i + 1` behind node `i`. At each row the target has a choice of its own (`sampling.choices`): the
likeliest token, or for a sampled request the winner of a race whose noise belongs to the token's
place in the text. The choice depends on nothing that was drafted, so what is emitted is what plain
decoding emits, token by token: drafts only decide how many choices one forward makes good. The
distribution is the target's because each choice is drawn from it, whatever the draft was.

What a draft is taken from matters for speed alone: drafts that run the same race, with the same
noise over their own probabilities, name the target's choice more often than their likeliest tokens.
Tokens a round of the tiny family at temperature 0.8 (24 held-out prompts, 96 tokens each): chains
of 4 2.86, of likeliest tokens 2.14; trees 4x12 3.68, of likeliest tokens 2.71. Drawn chains with the
rule of Leviathan et al. 2023 reached 2.94, but their texts depend on how much was drafted, which
here changes with the load.

Source: Daliri, Musco and Suresh 2024, arXiv 2408.07978, drafter-invariant speculative decoding by
Gumbel sampling: at total variation distance d, tokens agree with a chance of at least
(1 - d) / (1 + d), the best without communication; the rule of Leviathan et al. accepts 1 - d.
"""

from collections.abc import Sequence
from typing import NamedTuple

from serving.engine.draft_tree import DraftTree


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


def verify(tree: DraftTree, choices: Sequence[int]) -> Verdict:
    """Accept the path of nodes that each equal the target's choice.

    Args:
        tree: Drafted tokens, however they came about.
        choices: The target's choice at each row. Length: N + 1.
    """
    children = tree.children
    accepted: list[int] = []
    row = 0
    while True:
        token = choices[row]
        node = next((i for i in children[row] if tree.tokens[i] == token), None)
        if node is None:
            return Verdict(tuple(accepted), token)
        accepted.append(node)
        row = node + 1
