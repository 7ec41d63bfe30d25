"""For which outcomes of a verification a draft should be ready: chances learnt from what came. Pure.

Of a chain of k tokens these outcomes can be drafted behind before they are known: the first j tokens
are accepted and the target says the draft's second likeliest in the next one's place, for j < k; and
all are accepted and the target says what the draft says next.

Source: Shen et al. 2025, SpecBranch, arXiv 2506.01979, for branches where a draft may be refused; Liu
et al. 2025, PEARL, arXiv 2408.11850, post-verify, for going on where none is.
"""

from collections.abc import Sequence
from typing import NamedTuple

from serving.engine.draft_tree import DraftTree

_FIRST_ACCEPTANCE = 0.7
_FIRST_SECONDS = 0.4
"""Guesses before anything is known: of a drafted token, and of the second likeliest where that is
refused."""
_WEIGHT = 0.05
"""Of an outcome in the average of its kind."""


class Outcome(NamedTuple):
    """One way a verified chain may come out."""

    num_accepted: int
    token: int | None
    """What the target says behind them; None: what the draft says there, not known yet."""
    chance: float


class OutcomeOdds:
    """Averages of how often each kind of outcome came, by place and length of the chain."""

    def __init__(self) -> None:
        """Know nothing but first guesses."""
        self._chances: dict[tuple[int, int], float] = {}

    def outcomes(self, chain: DraftTree) -> list[Outcome]:
        """Return the outcomes of a chain that can be drafted behind, likeliest first."""
        length = len(chain)
        found = [
            Outcome(place, other, self._chance(place, length))
            for place, other in enumerate(chain.others)
        ]
        if length:
            found.append(Outcome(length, None, self._chance(length, length)))
        return sorted(found, key=lambda outcome: -outcome.chance)

    def observe(self, chain: DraftTree, emitted: Sequence[int], next_token: int | None) -> None:
        """Average in what came of a chain.

        Args:
            chain: As it was verified.
            emitted: What the round emitted: a beginning of the chain and a token of the target.
            next_token: What the draft says behind the whole chain; None where that is not known.
        """
        length, num_accepted, token = len(chain), len(emitted) - 1, emitted[-1]
        for place, other in enumerate(chain.others):
            self._count(place, length, came=place == num_accepted and token == other)
        if num_accepted < length or next_token is not None:
            self._count(length, length, came=num_accepted == length and token == next_token)

    def _chance(self, place: int, length: int) -> float:
        reached = _FIRST_ACCEPTANCE**place
        last = _FIRST_ACCEPTANCE if place == length else (1 - _FIRST_ACCEPTANCE) * _FIRST_SECONDS
        return self._chances.get((place, length), reached * last)

    def _count(self, place: int, length: int, *, came: bool) -> None:
        before = self._chance(place, length)
        self._chances[place, length] = before + _WEIGHT * (came - before)
