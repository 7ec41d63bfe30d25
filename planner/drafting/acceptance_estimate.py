"""Acceptance by depth and rank, learnt from what verification keeps, as a value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.drafting.draft_tree import Acceptance, checked_acceptance


@dataclass(frozen=True, slots=True)
class AcceptanceEstimate:
    """Averages of accepted / tried, one for each depth and rank, that forget.

    Each is the mean of a few tries as the prior has them and of what was counted. A count halves in
    `half_life_tries` drafted tokens. Where nothing is tried it halves too, more slowly, so that the
    average drifts to its prior: a draft that was switched off is given another chance. As little is
    then left of the old counts, a few tries are enough to switch it off again.
    """

    prior: Acceptance
    """Where the averages begin, and drift to while nothing is tried."""
    tried: Acceptance | None = None
    """Weight of the tries that are not forgotten; nothing: none."""
    accepted: Acceptance | None = None
    """Weight of those of them that were accepted."""
    prior_tries: float = 4.0
    """Tries that the prior counts for."""
    half_life_tries: float = 64.0
    """Tries after which old ones count half."""
    half_life_idle_rounds: float = 1500.0
    """Rounds without a try after which old ones count half; infinite: never."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If the prior is no table of acceptances, or a number is not positive.
        """
        for name in ("prior_tries", "half_life_tries", "half_life_idle_rounds"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0")
        object.__setattr__(self, "prior", checked_acceptance(self.prior))

    @property
    def averages(self) -> Acceptance:
        """Present averages."""
        return tuple(
            tuple(
                (self.prior_tries * first + _count(self.accepted, depth, rank))
                / (self.prior_tries + _count(self.tried, depth, rank))
                for rank, first in enumerate(ranks)
            )
            for depth, ranks in enumerate(self.prior)
        )

    @property
    def acceptance(self) -> Acceptance:
        """The averages as a table that a plan takes.

        Ranks are averaged apart and may sum to more than 1; later ranks then yield to earlier ones.
        """
        return tuple(_within_one(ranks) for ranks in self.averages)

    def updated(
        self, *, tried: Sequence[Sequence[int]], accepted: Sequence[Sequence[int]]
    ) -> "AcceptanceEstimate":
        """Return the estimate after a round.

        Args:
            tried: By depth and rank, drafted tokens whose parent was accepted; missing depths and
                ranks count 0, those beyond the prior are ignored.
            accepted: How many of them were accepted; of the same shape.

        Raises:
            ValueError: If shapes differ, or more is accepted than was tried.
        """
        if [len(ranks) for ranks in tried] != [len(ranks) for ranks in accepted]:
            raise ValueError("tried and accepted differ in shape; count both by depth and rank")
        for depth, (tries, hits) in enumerate(zip(tried, accepted, strict=True), start=1):
            for num_tried, num_accepted in zip(tries, hits, strict=True):
                if not 0 <= num_accepted <= num_tried:
                    raise ValueError(
                        f"{num_accepted} of {num_tried} tries accepted at depth {depth}; "
                        "give counts from 0, accepted at most tried"
                    )
        pairs = [
            [
                self._moved(depth, rank, _count(tried, depth, rank), _count(accepted, depth, rank))
                for rank in range(len(ranks))
            ]
            for depth, ranks in enumerate(self.prior)
        ]
        return replace(
            self,
            tried=tuple(tuple(pair[0] for pair in ranks) for ranks in pairs),
            accepted=tuple(tuple(pair[1] for pair in ranks) for ranks in pairs),
        )

    def _moved(self, depth: int, rank: int, tried: float, accepted: float) -> tuple[float, float]:
        """Return the weights of tries and acceptances after a round."""
        age = tried / self.half_life_tries if tried else 1 / self.half_life_idle_rounds
        keeps = math.exp2(-age)
        return (
            keeps * _count(self.tried, depth, rank) + tried,
            keeps * _count(self.accepted, depth, rank) + accepted,
        )


def _count(counts: Sequence[Sequence[float]] | None, depth: int, rank: int) -> float:
    is_there = counts is not None and depth < len(counts) and rank < len(counts[depth])
    return counts[depth][rank] if counts is not None and is_there else 0.0


def _within_one(ranks: tuple[float, ...]) -> tuple[float, ...]:
    left = 1.0
    kept = []
    for chance in ranks:
        kept.append(min(chance, left))
        left -= kept[-1]
    return tuple(kept)
