"""Least outstanding requests.

Algorithm: the candidate with the fewest requests sent and not yet ended, divided by its weight; among
equals the one picked longest ago, so that ties rotate. No parameters. Score: outstanding requests a
unit of weight, less is better.
"""

from collections.abc import Sequence

from router.base import Candidate, Decision, Query
from router.policies.turns import Turns


class LeastOutstanding:
    """Remembers only when it last picked each replica."""

    def __init__(self) -> None:
        self._turns = Turns()

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the least loaded candidate; see the module's header."""
        best = min(candidates, key=self._rank)
        self._turns.picked(best.url)
        scores = tuple([(each.url, each.load) for each in candidates])
        return Decision(best.url, "least_outstanding", scores)

    def _rank(self, candidate: Candidate) -> tuple[float, int]:
        return candidate.load, self._turns.last(candidate.url)
