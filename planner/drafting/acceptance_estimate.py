"""Acceptance by depth and rank, learnt from what verification keeps, as a value."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from planner.drafting.draft_tree import Acceptance, checked_acceptance


@dataclass(frozen=True, slots=True)
class AcceptanceEstimate:
    """Exponential averages of accepted / tried, one for each depth and rank.

    An average forgets half of what it knew in `half_life_tries` drafted tokens. Where nothing was
    tried it drifts to its prior instead: a draft that was switched off is given another chance.
    """

    averages: Acceptance
    """Present averages."""
    prior: Acceptance
    """Where the averages began, and drift to while nothing is tried."""
    half_life_tries: float = 200.0
    """Tries after which old ones count half."""
    half_life_idle_rounds: float = 1000.0
    """Rounds without a try after which half of the way to the prior is gone; infinite: none is."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If a half-life is not positive.
        """
        for name in ("half_life_tries", "half_life_idle_rounds"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value}; give a number above 0")

    @classmethod
    def start(cls, prior: Sequence[Sequence[float]]) -> "AcceptanceEstimate":
        """Return an estimate that has seen nothing.

        Raises:
            ValueError: If the prior is no table of acceptances.
        """
        table = checked_acceptance(prior)
        return cls(averages=table, prior=table)

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
        averages = tuple(
            tuple(
                self._moved(depth, rank, _count(tried, depth, rank), _count(accepted, depth, rank))
                for rank in range(len(ranks))
            )
            for depth, ranks in enumerate(self.averages)
        )
        return replace(self, averages=averages)

    def _moved(self, depth: int, rank: int, tried: int, accepted: int) -> float:
        average = self.averages[depth][rank]
        if tried:
            goal, keeps = accepted / tried, math.exp2(-tried / self.half_life_tries)
        else:
            goal, keeps = self.prior[depth][rank], math.exp2(-1 / self.half_life_idle_rounds)
        return keeps * average + (1 - keeps) * goal


def _count(counts: Sequence[Sequence[int]], depth: int, rank: int) -> int:
    is_there = depth < len(counts) and rank < len(counts[depth])
    return counts[depth][rank] if is_there else 0


def _within_one(ranks: tuple[float, ...]) -> tuple[float, ...]:
    left = 1.0
    kept = []
    for chance in ranks:
        kept.append(min(chance, left))
        left -= kept[-1]
    return tuple(kept)
