"""The simulation: arrivals and the ends of the replicas' runs, in the order of time."""

import math
from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace

from planner.simulator.fleet import ServingFleet
from planner.simulator.gaps import TokenGaps
from planner.simulator.replica import Replica
from planner.simulator.requests import RequestLog
from planner.simulator.result import ReplicaUse, SimulationResult
from planner.simulator.routing import ShareRouter
from planner.simulator.trace import Trace


def simulate(fleet: ServingFleet, trace: Trace, *, seed: int) -> SimulationResult:
    """Serve a trace on a fleet until the last request completes, by the rules of the package.

    Args:
        fleet: Pools of replicas and the router's weights.
        trace: What arrives.
        seed: Of the router's draws.

    Raises:
        ValueError: If a request asks for a model that the fleet does not serve, or is routed to a
            replica whose memory it can never fit.
    """
    log, gaps = RequestLog(trace), TokenGaps()
    pools = [[Replica(pool, log, gaps) for _ in range(pool.num_replicas)] for pool in fleet.pools]
    timeline = _Timeline(pools, ShareRouter(fleet, seed=seed))
    models = _models(fleet, trace)
    replica_of = []
    for request, (now, model, tokens) in enumerate(
        zip(log.arrival_seconds, models, log.input_tokens, strict=True)
    ):
        timeline.advance(now)
        replica_of.append(timeline.arrive(request, now, model, tokens))
    timeline.advance(math.inf)
    span = max(log.completion_seconds) - log.arrival_seconds[0]
    uses = [
        ReplicaUse(pool.name, each.num_requests, each.num_evictions, each.busy_seconds / span)
        for pool, members in zip(fleet.pools, pools, strict=True)
        for each in members
    ]
    return SimulationResult(
        arrival_seconds=log.arrival_seconds,
        first_token_seconds=log.first_token_seconds,
        completion_seconds=log.completion_seconds,
        output_tokens=log.output_tokens,
        num_evictions=log.num_evictions,
        replica_of=replica_of,
        replicas=tuple(uses),
        token_gaps=gaps,
    )


class _Timeline:
    """All replicas, and a heap of when their runs end; an entry that a cut replaced is stale."""

    def __init__(self, pools: list[list[Replica]], router: ShareRouter) -> None:
        self._router = router
        self._replicas = [replica for members in pools for replica in members]
        self._places = [
            (pool, at) for pool, members in enumerate(pools) for at in range(len(members))
        ]
        self._index = {place: index for index, place in enumerate(self._places)}
        self._ends: list[tuple[float, int]] = []

    def advance(self, now: float) -> None:
        """End every run that ends up to `now`."""
        ends, replicas = self._ends, self._replicas
        while ends and ends[0][0] <= now:
            seconds, index = ends[0]
            replica = replicas[index]
            if replica.event_seconds != seconds:
                heappop(ends)
                continue
            num_completed = replica.end_run()
            if num_completed:
                self._router.completed(*self._places[index], num_completed)
            if replica.event_seconds == math.inf:
                heappop(ends)
            else:
                heapreplace(ends, (replica.event_seconds, index))

    def arrive(self, request: int, now: float, model: str, input_tokens: int) -> int:
        """Route a request and return the index of its replica."""
        index = self._index[self._router.pick(model, input_tokens)]
        replica = self._replicas[index]
        if replica.add(request, now):
            heappush(self._ends, (replica.event_seconds, index))
        return index


def _models(fleet: ServingFleet, trace: Trace) -> Sequence[str]:
    served = sorted(fleet.shares)
    if trace.models:
        unknown = sorted(set(trace.models) - set(served))
        if unknown:
            raise ValueError(f"nobody serves {', '.join(unknown)}; served: {', '.join(served)}")
        return trace.models
    if len(served) > 1:
        raise ValueError(f"the fleet serves {', '.join(served)}; give the trace's models")
    return served * len(trace)
