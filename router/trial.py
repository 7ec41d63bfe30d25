"""How far one request has come: what has been tried, and what it is answered if nothing helps."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from router.attempt import Answer
from router.errors import ReplicaError
from router.fleet import Filter
from router.guards import Guards
from router.traffic_log import RequestRecord


@dataclass(slots=True)
class Trial:
    """One request's attempts; times are monotonic seconds."""

    record: RequestRecord
    began_at: float
    deadline_seconds: float
    num_attempts: int = 0
    tried: dict[str, float] = field(default_factory=dict)
    """Replica → when it was last tried or its attempt failed."""
    busy: Answer | None = None
    """The 429 with the shortest wait, its exchange ended."""
    busy_seconds: float = 0.0
    """How long that replica asked to be left alone."""
    internal_errors: list[Answer] = field(default_factory=list)
    """Answers of status 500, their exchanges ended; whose fault they are is still open."""
    failure: ReplicaError | None = None
    """The last one."""
    reason: str = "failed"
    """Why the next attempt is needed, a stable word."""
    emptied: Filter | None = None
    """What left no replica for the first attempt at the model asked last."""
    is_out_of_budget: bool = False
    waits_until: float | None = None
    """Until when it waits for a replica, once it has begun to."""

    @property
    def ends_at(self) -> float:
        """When the time of all attempts together is over."""
        return self.began_at + self.deadline_seconds

    def may_try(self, now: float, *, max_attempts: int) -> bool:
        """Return whether another attempt is allowed, wherever it may go."""
        return self.num_attempts < max_attempts and not self.is_out_of_budget and now < self.ends_at

    def begin(self, url: str, now: float) -> None:
        """Take note of an attempt."""
        self.tried[url] = now
        self.record.replica, self.record.num_retries = url, self.num_attempts
        self.num_attempts += 1

    def note_failure(self, error: ReplicaError, now: float) -> None:
        """Take note of an attempt without an answer."""
        self.failure, self.reason = error, error.reason
        self.tried[error.url] = now

    def note_busy(self, answer: Answer, seconds: float, now: float) -> None:
        """Take note of a 429."""
        self.reason = "busy"
        self.tried[answer.url] = now
        if self.busy is None or seconds < self.busy_seconds:
            self.busy, self.busy_seconds = answer, seconds

    def note_internal_error(self, answer: Answer) -> None:
        """Take note of a 500."""
        self.reason = "internal_error"
        self.internal_errors.append(answer)

    def forgive(self, guards: Guards) -> None:
        """Let replicas be tried again that a check has found well since, or that were only busy."""
        self.tried = {
            url: at for url, at in self.tried.items() if not guards.is_better_since(url, at)
        }

    def acquit(self) -> None:
        """Every 500 was the request's own fault: no replica is blamed."""
        for answer in self.internal_errors:
            answer.ticket.given_up()

    def blame(self) -> Iterable[str]:
        """Another replica could answer: those that said 500 are blamed; return them."""
        for answer in self.internal_errors:
            answer.ticket.failed()
        return [answer.url for answer in self.internal_errors]
