"""From a request to a replica's answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from router.base import Query
from router.call import Call
from router.errors import NoHealthyReplicaError, NoRoomError, ReplicaError, UnknownModelError
from router.fleet import Filter, Fleet
from router.health import HealthMonitor
from router.replica import Lease
from router.replica_choice import Choice, ReplicaChoice
from router.traffic_log import RequestRecord
from router.upstream import Upstream, UpstreamReply

BUSY_STATUS = 429


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
        choice: ReplicaChoice,
        upstream: Upstream,
        *,
        max_attempts: int,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._fleet = fleet
        self._monitor = monitor
        self._choice = choice
        self._upstream = upstream
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
            NoRoomError: If those that are healthy are all full.
            ReplicaError: If every replica tried failed; the last failure.
        """
        await self._check_model(call.query.model)
        record.model = call.query.model
        busy: Answer | None = None
        failure: ReplicaError | None = None
        tried: list[str] = []
        query = replace(call.query, draw=self._draw())
        while isinstance(choice := self._pick(query, tried), Choice):
            record.replica, record.num_retries = choice.url, len(tried)
            tried.append(choice.url)
            try:
                answer = await self._attempt(choice, call)
            except ReplicaError as error:
                failure = error
                self._monitor.report_failure(error.url, error.problem)
                continue
            if answer.reply.status != BUSY_STATUS:
                return answer
            answer.close()
            busy = answer
        return self._give_up(call, busy, failure, choice)

    async def _check_model(self, model: str) -> None:
        if self._fleet.knows(model):
            return
        await self._monitor.refresh()
        if not self._fleet.knows(model):
            raise UnknownModelError(model, self._fleet.model_entries())

    def _pick(self, query: Query, tried: list[str]) -> Choice | Filter:
        if len(tried) >= self._max_attempts:
            return "untried"
        return self._choice.choose(query, tried)

    async def _attempt(self, choice: Choice, call: Call) -> Answer:
        lease = self._choice.lease(choice)
        try:
            reply = await self._upstream.send(
                choice.url, call.target, headers=call.headers, body=call.body
            )
        except BaseException:
            lease.release()
            raise
        return Answer(reply, lease)

    def _give_up(
        self, call: Call, busy: Answer | None, failure: ReplicaError | None, emptied: Filter
    ) -> Answer:
        if busy is not None:
            return busy
        if failure is not None:
            raise failure
        model = call.query.model
        if emptied == "room":
            raise NoRoomError(model)
        raise NoHealthyReplicaError(model, num_replicas=len(self._fleet.serving(model)))
