"""One attempt at a request on one replica, until the first byte of its answer."""

from dataclasses import dataclass
from types import TracebackType

from router.answer_check import check_answer
from router.call import Call
from router.errors import (
    ReplicaError,
    ReplicaTimeoutError,
    StreamBrokenError,
)
from router.guards import Guards, Ticket
from router.replica import Lease
from router.upstream import Upstream, UpstreamReply

BUSY_STATUS = 429
ERROR_STATUS = 500

LEAST_BLAMED_FRACTION = 0.5
"""An attempt that had less than this share of the request's time when it ran out is not blamed."""


@dataclass(slots=True)
class Answer:
    """A replica's reply, the request's place on it, and its line to the replica's guard.

    As a context it ends the exchange: well where the block ends, as a failure where the stream broke,
    and without a word on the replica where anything else ended it.
    """

    reply: UpstreamReply
    lease: Lease
    ticket: Ticket
    model: str
    """The model that answers: the one asked for, or a fallback."""

    @property
    def url(self) -> str:
        """The replica."""
        return self.lease.replica.url

    @property
    def is_useful(self) -> bool:
        """Whether it may be passed on at once: it says neither busy nor internal error."""
        return self.reply.status not in (BUSY_STATUS, ERROR_STATUS)

    def release(self) -> None:
        """End the exchange with the replica and give the place back; the outcome stays open."""
        self.reply.close()
        self.lease.release()

    def close(self) -> None:
        """End the exchange; of the replica it says nothing that has not been said."""
        self.release()
        self.ticket.given_up()

    def __enter__(self) -> "Answer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.ticket.succeeded()
        elif isinstance(error, StreamBrokenError):
            self.ticket.failed()
        self.close()


class Attempts:
    """Sends requests to replicas, and tells the guards how it went."""

    def __init__(self, guards: Guards, upstream: Upstream) -> None:
        self._guards = guards
        self._upstream = upstream

    async def send(self, lease: Lease, call: Call, *, seconds: float, share: float) -> Answer:
        """Return the replica's answer as soon as it has begun and is one.

        Args:
            lease: The request's place on a replica; given back if there is no answer.
            call: The request.
            seconds: Time left to the request.
            share: What part of the request's whole time that is, from 0 to 1.

        Raises:
            ReplicaError: If there is none; the replica's guard has been told.
        """
        url = lease.replica.url
        guard = self._guards.of(url)
        ticket = self._guards.begin(url)
        most_seconds = self._upstream.first_byte_seconds
        reply: UpstreamReply | None = None
        self._guards.awaits(guard)
        try:
            reply = await self._upstream.send(
                url,
                call.target,
                headers=call.headers,
                body=call.body,
                timeout_seconds=min(seconds, most_seconds),
                waiting=guard.waiting,
            )
            self._guards.heard(guard)
            await check_answer(reply)
        except BaseException as error:
            lease.release()
            if reply is not None:
                reply.close()
            is_late = isinstance(error, ReplicaTimeoutError)
            had_little_time = seconds < most_seconds and share < LEAST_BLAMED_FRACTION
            if not isinstance(error, ReplicaError) or (is_late and had_little_time):
                ticket.given_up()
            else:
                ticket.failed()
            raise
        if reply.is_stream:
            ticket.answers()
        elif reply.status != ERROR_STATUS:
            ticket.succeeded()
        return Answer(reply, lease, ticket, call.query.model)
