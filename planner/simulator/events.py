"""The simulation: arrivals, losses and the ends of the replicas' runs, in the order of time."""

import math
from collections.abc import Callable, Sequence
from heapq import heappop, heappush, heapreplace
from itertools import pairwise

from planner.errors import WorkloadError
from planner.simulator.fleet import ServingFleet
from planner.simulator.gaps import TokenGaps
from planner.simulator.losses import Loss, check_losses
from planner.simulator.replica import Replica
from planner.simulator.requests import RequestLog
from planner.simulator.result import ReplicaUse, SimulationResult, batch_edges
from planner.simulator.routing import ShareRouter
from planner.workloads.trace import Trace


def simulate(
    fleet: ServingFleet,
    trace: Trace,
    *,
    seed: int,
    losses: Sequence[Loss] = (),
    count_tokens: bool = False,
    on_progress: Callable[[float], None] | None = None,
) -> SimulationResult:
    """Serve a trace on a fleet until the last request completes, by the rules of the package.

    Args:
        fleet: Pools of replicas and the router's weights.
        trace: What arrives.
        seed: Of the router's draws.
        losses: Replicas that vanish on the way, in order of time.
        count_tokens: Whether to keep the time between tokens; it costs time.
        on_progress: Told after every twentieth of the arrivals which fraction is done, up to 1.

    Raises:
        WorkloadError: If a request asks for a model that the fleet does not serve, or is routed to a
            replica whose memory it can never fit.
        ValueError: If a loss does more than take replicas away.
    """
    check_losses(fleet, losses)
    simulation = _Simulation(fleet, trace, seed)
    token_gaps = []
    still_to_come = list(reversed(losses))
    edges = batch_edges(trace.num_requests)
    for batch, (first, last) in enumerate(pairwise(edges)):
        if count_tokens:
            token_gaps.append(simulation.count_tokens())
        for request in range(first, last):
            now = trace.arrival_seconds[request]
            while still_to_come and still_to_come[-1].at_seconds <= now:
                simulation.lose(still_to_come.pop())
            simulation.advance(now)
            simulation.arrive(request, now)
        if on_progress and batch + 2 < len(edges):
            on_progress((batch + 1) / (len(edges) - 1))
    while still_to_come:
        simulation.lose(still_to_come.pop())
    simulation.advance(math.inf)
    if on_progress:
        on_progress(1.0)
    return simulation.result(tuple(token_gaps) if count_tokens else None)


class _Simulation:
    """All replicas, and a heap of when their runs end; an entry that a cut replaced is stale."""

    def __init__(self, fleet: ServingFleet, trace: Trace, seed: int) -> None:
        self._fleet = fleet
        self._log = RequestLog(trace)
        self._models = _models(fleet, trace)
        self._router = ShareRouter(fleet, seed=seed)
        self._places = [
            (index, at) for index, pool in enumerate(fleet.pools) for at in range(pool.num_replicas)
        ]
        self._replicas = [Replica(fleet.pools[index], self._log) for index, _ in self._places]
        self._index = {place: index for index, place in enumerate(self._places)}
        self._ends: list[tuple[float, int]] = []
        self._replica_of = [0] * trace.num_requests

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

    def arrive(self, request: int, now: float) -> None:
        """Route a request to a replica, and queue it there."""
        place = self._router.pick(self._models[request], self._log.input_tokens[request])
        index = self._index[place]
        self._replica_of[request] = index
        replica = self._replicas[index]
        if replica.add(request, now):
            heappush(self._ends, (replica.event_seconds, index))

    def lose(self, loss: Loss) -> None:
        """Take replicas away, the last of their pools, and route their requests anew."""
        now = loss.at_seconds
        self.advance(now)
        self._router.shrink(loss.left)
        stranded: list[int] = []
        for replica, (pool, at) in zip(self._replicas, self._places, strict=True):
            if at >= loss.left.pools[pool].num_replicas:
                stranded += replica.lose(now)
        for request in sorted(stranded):
            self._log.restart(request)
            self.arrive(request, now)

    def count_tokens(self) -> tuple[TokenGaps, ...]:
        """Keep the time between tokens, by pool, in new counts from now on; return them."""
        counts = tuple(TokenGaps() for _ in self._fleet.pools)
        for replica, (pool, _) in zip(self._replicas, self._places, strict=True):
            replica.gaps = counts[pool]
        return counts

    def result(self, token_gaps: tuple[tuple[TokenGaps, ...], ...] | None) -> SimulationResult:
        """Return what was found once all is served."""
        log = self._log
        span = max(log.completion_seconds) - log.arrival_seconds[0]
        pools = tuple(pool.name for pool in self._fleet.pools)
        uses = tuple(
            ReplicaUse(pools[pool], each.num_requests, each.num_evictions, each.busy_seconds / span)
            for each, (pool, _) in zip(self._replicas, self._places, strict=True)
        )
        return SimulationResult(
            arrival_seconds=log.arrival_seconds,
            first_token_seconds=self._received(log.first_token_seconds),
            completion_seconds=self._received(log.completion_seconds),
            output_tokens=log.output_tokens,
            num_evictions=log.num_evictions,
            num_restarts=log.num_restarts,
            replica_of=self._replica_of,
            pools=pools,
            replicas=uses,
            token_gaps=token_gaps,
        )

    def _received(self, emitted_seconds: Sequence[float]) -> list[float]:
        """Return when the clients have the tokens that were emitted at these times, by request."""
        overheads = [self._fleet.pools[pool].request_overhead_seconds for pool, _ in self._places]
        return [
            seconds + overheads[replica]
            for seconds, replica in zip(emitted_seconds, self._replica_of, strict=True)
        ]


def _models(fleet: ServingFleet, trace: Trace) -> Sequence[str]:
    served = sorted(fleet.shares)
    if trace.models is not None:
        unknown = sorted(set(trace.models) - set(served))
        if unknown:
            raise WorkloadError(
                f"the trace asks for {', '.join(unknown)}, the fleet serves {', '.join(served)}; "
                "leave those requests out or plan for them"
            )
        return trace.models
    if len(served) > 1:
        raise WorkloadError(
            f"the fleet serves {', '.join(served)} and the trace names no model; give one a request"
        )
    return served * trace.num_requests
