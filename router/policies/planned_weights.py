"""Planned weights.

Algorithm, for a model with weights: the request's input tokens (estimated, `input_size.py`) fall into
the first range that reaches up to them, or into the last; an offer is drawn by the weights of that
range; inside it the least outstanding replica is picked. An offer none of whose replicas can take the
request is put aside and the next drawn among the rest in proportion to their weights; when no offer
with a weight is left, any replica will do. The reasons `other_offer` and `unplanned_offer` say so and
are counted.

A model without weights, adapters among them, is left to the least outstanding replica. One uniform
number a request (`Query.draw`) decides every attempt at it, so a retry stays with the offer drawn.
Score: outstanding requests of the offer's replicas, less is better.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from router.base import Candidate, Decision, Policy, Query
from router.config import ModelConfig
from router.input_size import InputSizes

Weights = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Table:
    """The weights of one model."""

    ends: tuple[int, ...]
    """Longest input of each range, in tokens, rising."""
    rows: tuple[Weights, ...]
    """Weights of each range."""

    def weights(self, input_tokens: int) -> Weights:
        """Return the weights for an input; one longer than every range belongs to the last."""
        return self.rows[min(bisect_left(self.ends, input_tokens), len(self.rows) - 1)]


class PlannedWeights:
    """Draws offers by weight; remembers nothing itself."""

    def __init__(self, models: Sequence[ModelConfig], sizes: InputSizes, within: Policy) -> None:
        """Follow the weights of `models`; `within` picks among one offer's replicas."""
        self._tables = {model.name: _table(model) for model in models if model.weights}
        self._sizes = sizes
        self._within = within

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the decision for one attempt; see the module's header."""
        table = self._tables.get(query.model)
        if table is None:
            return self._within.pick(candidates, query)
        weights = table.weights(self._sizes.estimate(query))
        offers = {candidate.url: candidate.offer for candidate in candidates}
        present = set(offers.values())
        first = draw_offer(weights, weights, query.draw)
        offer = draw_offer(weights, present, query.draw)
        if offer is None:
            decision = self._within.pick(candidates, query)
            return replace(decision, offer=offers[decision.url], reason="unplanned_offer")
        inside = [each for each in candidates if each.offer == offer]
        reason = "planned_weights" if offer == first else "other_offer"
        return replace(self._within.pick(inside, query), offer=offer, reason=reason)


def draw_offer(weights: Weights, present: Collection[str | None], draw: float) -> str | None:
    """Return the offer that `draw`, uniform in [0, 1), falls on, or None if none is left.

    An offer that is not `present` is taken out and the draw repeated among the rest; where the draw
    stood inside its stretch is again uniform and serves as the next draw.
    """
    rest = {offer: weight for offer, weight in weights.items() if weight}
    while rest:
        point = draw * sum(rest.values())
        drawn = next(reversed(rest))
        for offer, weight in rest.items():
            if point < weight:
                drawn = offer
                break
            point -= weight
        if drawn in present:
            return drawn
        draw = min(point / rest.pop(drawn), 1.0)
    return None


def _table(model: ModelConfig) -> _Table:
    return _Table(
        ends=tuple(row.input_tokens_up_to for row in model.weights),
        rows=tuple(row.weights for row in model.weights),
    )
