"""Prefix-aware: the replica that has read the beginning already, unless it has too much to do.

Algorithm:
1. Imbalance first (SMG): where the most loaded candidate has over `balance_requests` (32) requests more
   than the least loaded, and over `balance_ratio` (1.1) times as many, the least loaded is picked.
   Reason `imbalanced`. So no hot prefix buries a replica.
2. Finalists: all candidates when there are fewer than 32; else two at random and the one that holds
   the most of the prefix.
3. Score, more is better: `prefix_weight` (1) x share of the prompt held + `adapter_weight` (0.3) x
   readiness for the adapter - `load_weight` (1) x load. Load is how many tokens more than the best
   finalist a replica has to do, with this request, as a share of its capacity (of `queue_tokens`,
   65,536, where none is configured), at most 1. A slow replica's tokens count as many times as its
   answers take longer than the fastest finalist's, up to `most_slowness` (4) times; up to 10 % or 50 ms
   is no difference, and unmeasured is fast.
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

NEW_TOKENS = 512
"""What this request adds to a queue: no more than a guess, so that slowness counts without any queue."""


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
        queues = self._queues(finalists)
        least = min(queues)
        scores = []
        for each, queue in zip(finalists, queues, strict=True):
            room = each.capacity_tokens or config.queue_tokens
            score = config.prefix_weight * each.prefix_fraction
            score += config.adapter_weight * each.adapter_fit
            score -= config.load_weight * min(1.0, (queue - least) / room)
            scores.append((each.url, score))
        return tuple(scores)

    def _queues(self, finalists: Sequence[Candidate]) -> list[float]:
        """Return what each would have to do with this request, in tokens of the fastest."""
        measured = [each.latency_seconds for each in finalists if each.latency_seconds is not None]
        fastest = min(measured, default=0.0)
        equal_seconds = max(EQUAL_LATENCY * fastest, fastest + EQUAL_SECONDS)
        most = self._config.most_slowness
        queues = []
        for each in finalists:
            queue = each.token_load + NEW_TOKENS / each.weight
            seconds = each.latency_seconds
            if seconds is not None and seconds > equal_seconds:
                queue *= min(most, seconds / equal_seconds)
            queues.append(queue)
        return queues

    def _best(self, scores: Scores) -> int:
        best = max([score for _, score in scores])
        equals = [place for place, (_, score) in enumerate(scores) if score == best]
        if len(equals) == 1:
            return equals[0]
        return min(equals, key=lambda place: self._turns.last(scores[place][0]))


def _emptiness(candidates: Sequence[Candidate]) -> Scores:
    return tuple([(each.url, -each.load) for each in candidates])
