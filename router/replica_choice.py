"""Which replica gets a request: filter, score, pick.

`choose` is the table of contents: what the request demands, which replicas pass the filters, which of
them the policy picks; the pick's prefix counts as sent there at once, so that requests which begin
alike and arrive together go to one replica.
"""

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

from router.base import NO_DEMAND, Decision, Demand, Policy, Query
from router.fleet import Filter, Fleet
from router.input_size import InputSizes
from router.metrics import RouterMetrics
from router.output_length import OutputLengths
from router.prefix_blocks import BLOCK_ENDS
from router.replica import Lease
from router.traffic_log import RequestRecord

CHARACTERS_PER_TOKEN = 4
"""Of English text: how much of it a replica of some capacity holds."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Choice:
    """A replica for one attempt at a request."""

    decision: Decision
    model: str
    demand: Demand

    @property
    def url(self) -> str:
        """The replica."""
        return self.decision.url


class ReplicaChoice:
    """Chooses replicas, and learns from the answers how large requests are and how fast replicas.

    Args:
        fleet: The replicas.
        policy: Picks among those that pass the filters.
        sizes: Tells input tokens.
        lengths: Tells output tokens.
        metrics: Counts picks, and what left nothing to pick.
        prefix_nodes: How many prefixes to remember for each replica; 0 where the policy does not ask.
        monotonic: Clock of the latencies, the fleet's.
    """

    def __init__(
        self,
        fleet: Fleet,
        policy: Policy,
        sizes: InputSizes,
        lengths: OutputLengths,
        metrics: RouterMetrics,
        *,
        prefix_nodes: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._policy = policy
        self._sizes = sizes
        self._lengths = lengths
        self._metrics = metrics
        self._prefix_nodes = prefix_nodes
        self._monotonic = monotonic

    def choose(self, query: Query, excluding: Collection[str]) -> Choice | Filter:
        """Return the replica for one attempt, or the filter that left none.

        Args:
            query: The request.
            excluding: Replicas (URLs) not to be taken, such as those tried before.
        """
        demand = self.demand(query)
        candidates = self._fleet.candidates(query.model, excluding=excluding, demand=demand)
        if not candidates:
            emptied = self._fleet.emptied_by(query.model, excluding=excluding, demand=demand)
            self._metrics.emptied(query.model, emptied)
            logger.debug("no candidate model=%s filter=%s", query.model, emptied)
            return emptied
        decision = self._policy.pick(candidates, query)
        self._note(query, demand, decision)
        return Choice(decision, query.model, demand)

    def demand(self, query: Query) -> Demand:
        """Return what a request brings along and will occupy, as far as can be told."""
        blocks = NO_DEMAND.blocks
        if self._prefix_nodes:
            blocks = query.prompt.blocks.seeded(query.model)
        tokens = self._sizes.estimate(query)
        return Demand(blocks, tokens, self._lengths.expected(query.model, query.fields))

    def lease(self, choice: Choice) -> Lease:
        """Return the request's place on the replica chosen."""
        replica = self._fleet.replica(choice.url)
        return Lease(replica, model=choice.model, tokens=choice.demand.tokens)

    def learn(self, query: Query, record: RequestRecord) -> None:
        """Take note of an answer that has ended: its tokens and, from its replica, its times."""
        usage = record.usage
        self._sizes.learn(query, usage.prompt_tokens)
        self._lengths.learn(query.model, usage.completion_tokens)
        replica = self._fleet.find(record.replica) if record.replica else None
        if record.status != 200 or replica is None or record.attempted_at is None:
            return
        latency = replica.latency
        now = self._monotonic()
        tokens = usage.completion_tokens or 0
        # From the attempt's beginning: what others had the request for before is not this one's time.
        if record.first_byte_at is not None:
            ttft_seconds = record.first_byte_at - record.attempted_at
            latency.note_stream(ttft_seconds, record.tpot_seconds, tokens, now=now)
        else:
            latency.note_whole(now - record.attempted_at, tokens, now=now)

    def _note(self, query: Query, demand: Demand, decision: Decision) -> None:
        if demand.blocks.hashes:
            replica = self._fleet.replica(decision.url)
            num_held = replica.prefixes.match(demand.blocks.hashes)
            self._metrics.matched(
                query.model,
                num_characters=demand.blocks.num_characters,
                num_held=BLOCK_ENDS[num_held - 1] if num_held else 0,
            )
            capacity = replica.limits.capacity_tokens
            replica.prefixes.hold(
                demand.blocks.hashes,
                most_nodes=self._prefix_nodes,
                most_characters=None if capacity is None else capacity * CHARACTERS_PER_TOKEN,
            )
        self._metrics.picked(query.model, decision)
        logger.debug(
            "picked url=%s offer=%s reason=%s scores=%s",
            decision.url,
            decision.offer,
            decision.reason,
            decision.scores,
        )
