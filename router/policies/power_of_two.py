"""Power of two choices (Mitzenmacher 2001; the default of SMG and Ray Serve).

Algorithm: two different candidates at random, and of them the one with fewer outstanding tokens a unit
of weight; of equals the one drawn first. No parameters. Score: outstanding tokens a unit of weight of
the two drawn, less is better.
"""

from collections.abc import Callable, Sequence

from router.base import Candidate, Decision, Query


class PowerOfTwo:
    """Remembers nothing; `draw` gives numbers uniform in [0, 1)."""

    def __init__(self, draw: Callable[[], float]) -> None:
        self._draw = draw

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the less loaded of two; see the module's header."""
        drawn = two_of(candidates, self._draw)
        best = min(drawn, key=lambda each: each.token_load)
        scores = tuple([(each.url, each.token_load) for each in drawn])
        return Decision(best.url, "power_of_two", scores)


def two_of(candidates: Sequence[Candidate], draw: Callable[[], float]) -> tuple[Candidate, ...]:
    """Return two different candidates at random, every pair alike; or the only one."""
    if len(candidates) == 1:
        return (candidates[0],)
    first = int(draw() * len(candidates))
    second = int(draw() * (len(candidates) - 1))
    return candidates[first], candidates[second + (second >= first)]
