"""Planned weights.

Algorithm, for a model with weights: the request's input tokens (estimated, `input_size.py`) fall into
the first range that reaches up to them, or into the last; an offer is drawn by the weights of that
range; inside it the configured policy picks. An offer none of whose replicas can take the request is put
aside and the next drawn among the rest in proportion to their weights; when no offer with a weight is
left, any replica will do. The reasons `other_offer` and `unplanned_offer` say so and are counted.

A conversation follows its prefix: where a replica of another offer with a weight holds more of the
prompt than any of the offer drawn, at least `FOLLOWED_FRACTION` of it, that offer is taken in place of
the drawn one (reason `planned_prefix`), as long as the offer has not had more than
`AHEAD_FRACTION` of its share and `AHEAD_REQUESTS` requests on top of its share of the range's requests.
So shares hold in the long run whatever the prompts. Counts halve every `HALVED_REQUESTS` requests.

A model without weights, adapters among them, is left to the configured policy. One uniform number a
request (`Query.draw`) decides every attempt at it, so a retry stays with the offer drawn. Score: the
configured policy's, of the offer's replicas.
"""

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from router.base import Candidate, Decision, Policy, Query
from router.config import ModelConfig
from router.input_size import InputSizes

FOLLOWED_FRACTION = 0.5
"""SMG's threshold of a match that is worth following."""
AHEAD_FRACTION = 0.1
AHEAD_REQUESTS = 8
HALVED_REQUESTS = 1024

Weights = Mapping[str, int]


@dataclass(slots=True)
class _Range:
    """One range of input sizes: its weights, and what its offers have had."""

    weights: Weights
    counts: dict[str, float] = field(default_factory=dict)
    num_requests: float = 0.0

    def is_ahead(self, offer: str) -> bool:
        """Return whether the offer has had more than its share allows."""
        due = self.num_requests * self.weights[offer] / sum(self.weights.values())
        return self.counts.get(offer, 0.0) >= due * (1 + AHEAD_FRACTION) + AHEAD_REQUESTS

    def count(self, offer: str) -> None:
        self.counts[offer] = self.counts.get(offer, 0.0) + 1
        self.num_requests += 1
        if self.num_requests >= HALVED_REQUESTS:
            self.num_requests /= 2
            self.counts = {each: count / 2 for each, count in self.counts.items()}


@dataclass(frozen=True, slots=True)
class _Table:
    """The weights of one model."""

    ends: tuple[int, ...]
    """Longest input of each range, in tokens, rising."""
    rows: tuple[_Range, ...]

    def row(self, input_tokens: int) -> _Range:
        """Return the range of an input; one longer than every range belongs to the last."""
        return self.rows[min(bisect_left(self.ends, input_tokens), len(self.rows) - 1)]


class PlannedWeights:
    """Draws offers by weight; remembers how many requests each has had."""

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
        row = table.row(self._sizes.estimate(query))
        offer, reason = _chosen_offer(row, candidates, query.draw)
        if offer is None:
            decision = self._within.pick(candidates, query)
            picked = next(each.offer for each in candidates if each.url == decision.url)
            return replace(decision, offer=picked, reason=reason)
        row.count(offer)
        inside = [each for each in candidates if each.offer == offer]
        return replace(self._within.pick(inside, query), offer=offer, reason=reason)


def _chosen_offer(
    row: _Range, candidates: Sequence[Candidate], draw: float
) -> tuple[str | None, str]:
    """Return the offer that takes the request, None where no planned one can, and the reason."""
    drawn = draw_offer(row.weights, {each.offer for each in candidates}, draw)
    if drawn is None:
        return None, "unplanned_offer"
    best = max(candidates, key=lambda each: each.prefix_fraction)
    held = max(each.prefix_fraction for each in candidates if each.offer == drawn)
    if (
        best.prefix_fraction >= FOLLOWED_FRACTION
        and best.prefix_fraction > held
        and best.offer is not None
        and row.weights.get(best.offer)
        and not row.is_ahead(best.offer)
    ):
        return best.offer, "planned_prefix"
    is_first = drawn == draw_offer(row.weights, row.weights, draw)
    return drawn, "planned_weights" if is_first else "other_offer"


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
        rows=tuple(_Range(row.weights) for row in model.weights),
    )
