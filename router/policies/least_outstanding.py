"""Least outstanding requests.

Algorithm: the candidate with the fewest requests sent and not yet ended; among equals the one
picked longest ago, so that ties rotate. No parameters. Score: outstanding requests, less is better.
"""

from collections.abc import Sequence

from router.base import Candidate, Decision, Query


class LeastOutstanding:
    """Remembers only when it last picked each replica."""

    def __init__(self) -> None:
        self._turn = 0
        self._last_turns: dict[str, int] = {}

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the least loaded candidate; see the module's header."""
        best = min(candidates, key=self._rank)
        self._turn += 1
        self._last_turns[best.url] = self._turn
        return Decision(
            url=best.url,
            reason="least_outstanding",
            scores=tuple((each.url, float(each.num_outstanding)) for each in candidates),
        )

    def _rank(self, candidate: Candidate) -> tuple[int, int]:
        return candidate.num_outstanding, self._last_turns.get(candidate.url, 0)
