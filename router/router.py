"""From a request to a replica's answer."""

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from router.base import Policy, Query
from router.call import Call
from router.errors import NoHealthyReplicaError, ReplicaError, UnknownModelError
from router.fleet import Fleet
from router.health import HealthMonitor
from router.metrics import RouterMetrics
from router.replica import Lease
from router.traffic_log import RequestRecord
from router.upstream import Upstream, UpstreamReply

BUSY_STATUS = 429

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A replica's reply and the request's place on it."""

    reply: UpstreamReply
    lease: Lease

    def close(self) -> None:
        """End the exchange with the replica and give the place back."""
        self.reply.close()
        self.lease.release()


class Router:
    """Chooses a replica for each request, and another one if that fails."""

    def __init__(
        self,
        fleet: Fleet,
        monitor: HealthMonitor,
        policy: Policy,
        upstream: Upstream,
        metrics: RouterMetrics,
        *,
        max_attempts: int,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._fleet = fleet
        self._monitor = monitor
        self._policy = policy
        self._upstream = upstream
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._draw = draw

    async def route(self, call: Call, record: RequestRecord) -> Answer:
        """Return the first answer a replica gives; the caller closes it.

        A replica that fails before its first byte is taken out and another one tried; one that is
        busy (429) stays in, and its refusal is the answer if no other replica takes the request.

        Args:
            call: The request.
            record: Gets the model, the replica and the number of retries.

        Raises:
            UnknownModelError: If no replica serves the model, after asking them all again.
            NoHealthyReplicaError: If none of those that serve it is healthy.
            ReplicaError: If every replica tried failed; the last failure.
        """
        await self._check_model(call.query.model)
        record.model = call.query.model
        busy: Answer | None = None
        failure: ReplicaError | None = None
        tried: list[str] = []
        query = replace(call.query, draw=self._draw())
        while (url := self._pick(query, tried)) is not None:
            record.replica, record.num_retries = url, len(tried)
            tried.append(url)
            try:
                answer = await self._attempt(url, call)
            except ReplicaError as error:
                failure = error
                self._monitor.report_failure(error.url, error.problem)
                continue
            if answer.reply.status != BUSY_STATUS:
                return answer
            answer.close()
            busy = answer
        return self._give_up(call, busy, failure)

    async def _check_model(self, model: str) -> None:
        if self._fleet.knows(model):
            return
        await self._monitor.refresh()
        if not self._fleet.knows(model):
            raise UnknownModelError(model, self._fleet.model_entries())

    def _pick(self, query: Query, tried: list[str]) -> str | None:
        if len(tried) >= self._max_attempts:
            return None
        candidates = self._fleet.candidates(query.model, excluding=tried)
        if not candidates:
            return None
        decision = self._policy.pick(candidates, query)
        self._metrics.picked(query.model, decision)
        logger.debug(
            "picked url=%s offer=%s reason=%s scores=%s",
            decision.url,
            decision.offer,
            decision.reason,
            decision.scores,
        )
        return decision.url

    async def _attempt(self, url: str, call: Call) -> Answer:
        lease = Lease(self._fleet.replica(url))
        try:
            reply = await self._upstream.send(
                url, call.target, headers=call.headers, body=call.body
            )
        except BaseException:
            lease.release()
            raise
        return Answer(reply, lease)

    def _give_up(self, call: Call, busy: Answer | None, failure: ReplicaError | None) -> Answer:
        if busy is not None:
            return busy
        if failure is not None:
            raise failure
        model = call.query.model
        raise NoHealthyReplicaError(model, num_replicas=len(self._fleet.serving(model)))
