"""Round robin.

Algorithm: the candidate picked longest ago, whatever its load; each model has its own round, and
weights do not count. No parameters. Score: the turn of the last pick, 0 before the first; less is
better.
"""

from collections.abc import Sequence

from router.base import Candidate, Decision, Query
from router.policies.turns import Turns

MOST_ROUNDS = 4096
"""Models and adapters that have a round of their own at once; the oldest round starts afresh."""


class RoundRobin:
    """Remembers when it last picked each replica, by model."""

    def __init__(self) -> None:
        self._rounds: dict[str, Turns] = {}

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the candidate whose turn it is; see the module's header."""
        turns = self._rounds.get(query.model)
        if turns is None:
            if len(self._rounds) >= MOST_ROUNDS:
                del self._rounds[next(iter(self._rounds))]
            turns = self._rounds[query.model] = Turns()
        scores = tuple([(each.url, float(turns.last(each.url))) for each in candidates])
        url, _ = min(scores, key=lambda scored: scored[1])
        turns.picked(url)
        return Decision(url, "round_robin", scores)
