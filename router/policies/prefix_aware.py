"""Prefix-aware: the replica that has read the beginning already, unless it has too much to do.

Algorithm:
1. Imbalance first (SMG): where the most loaded candidate has over `balance_requests` (32) requests more
   than the least loaded, and over `balance_ratio` (1.1) times as many, the least loaded is picked.
   Reason `imbalanced`. So no hot prefix buries a replica.
2. Finalists: all candidates when there are fewer than 32; else two at random and the one that holds
   the most of the prefix.
3. Score, more is better: `prefix_weight` (1) x share of the prompt held + `adapter_weight` (0.3) x
   readiness for the adapter - `load_weight` (1) x load - `latency_weight` (0.2) x slowness. Load is the
   outstanding tokens beyond the least loaded finalist's, as a share of the capacity (of
   `queue_tokens` where none is configured), at most 1. Slowness is how much longer than the fastest
   finalist the answer would take, at most 1; 10 % or 50 ms is no difference, and unmeasured is fast.
4. The best score; of equals the one picked longest ago. Reason `prefix` where it holds at least `match_fraction`
   (0.1) of the prompt, else `no_prefix`.

Loads are divided by the replica's weight. Prefixes are the replica's own (`prefix_tree.py`).
"""

from collections.abc import Callable, Sequence

from router.base import Candidate, Decision, Query
from router.policies.power_of_two import two_of
from router.policies.turns import Turns
from router.policy_config import PrefixAwareConfig

Scores = tuple[tuple[str, float], ...]

MOST_SCORED = 32
"""From here on not every candidate is scored."""
EQUAL_LATENCY = 1.1
"""Answers up to this many times as slow as the fastest count as fast (litellm #3370) ..."""
EQUAL_SECONDS = 0.05
"""... and so do those up to this much slower: less is noise."""


class PrefixAware:
    """Scores what the candidates say of themselves; `draw` gives numbers uniform in [0, 1).

    Remembers only when it last picked each replica.
    """

    def __init__(self, config: PrefixAwareConfig, draw: Callable[[], float]) -> None:
        self._config = config
        self._draw = draw
        self._turns = Turns()

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the best scored candidate; see the module's header."""
        is_imbalanced = self._is_imbalanced(candidates)
        finalists = candidates if is_imbalanced else self._finalists(candidates)
        scores = _emptiness(candidates) if is_imbalanced else self._scores(finalists)
        place = self._best(scores)
        url, _ = scores[place]
        self._turns.picked(url)
        if is_imbalanced:
            return Decision(url, "imbalanced", scores)
        is_held = finalists[place].prefix_fraction >= self._config.match_fraction
        return Decision(url, "prefix" if is_held else "no_prefix", scores)

    def _is_imbalanced(self, candidates: Sequence[Candidate]) -> bool:
        loads = [each.load for each in candidates]
        least, most = min(loads), max(loads)
        config = self._config
        return most - least > config.balance_requests and most > config.balance_ratio * least

    def _finalists(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        if len(candidates) < MOST_SCORED:
            return candidates
        holder = max(candidates, key=lambda each: each.prefix_fraction)
        drawn = two_of(candidates, self._draw)
        return drawn if holder in drawn else (*drawn, holder)

    def _scores(self, finalists: Sequence[Candidate]) -> Scores:
        config = self._config
        least = min([each.token_load for each in finalists])
        measured = [each.latency_seconds for each in finalists if each.latency_seconds is not None]
        fastest = min(measured, default=0.0)
        equal_seconds = max(EQUAL_LATENCY * fastest, fastest + EQUAL_SECONDS)
        scores = []
        for each in finalists:
            room = each.capacity_tokens or config.queue_tokens
            score = config.prefix_weight * each.prefix_fraction
            score += config.adapter_weight * each.adapter_fit
            score -= config.load_weight * min(1.0, (each.token_load - least) / room)
            seconds = each.latency_seconds
            if seconds is not None and seconds > equal_seconds:
                score -= config.latency_weight * min(1.0, seconds / equal_seconds - 1)
            scores.append((each.url, score))
        return tuple(scores)

    def _best(self, scores: Scores) -> int:
        best = max([score for _, score in scores])
        equals = [place for place, (_, score) in enumerate(scores) if score == best]
        if len(equals) == 1:
            return equals[0]
        return min(equals, key=lambda place: self._turns.last(scores[place][0]))


def _emptiness(candidates: Sequence[Candidate]) -> Scores:
    return tuple([(each.url, -each.load) for each in candidates])
