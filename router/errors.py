"""Failures of the router; `error_answers.py` turns each into an HTTP answer.

RouterError
├── StartError                the router cannot start; never reaches a client
├── RequestError              the client's mistake
│   ├── MalformedBodyError    the body is no JSON object
│   ├── ParameterError        a field or query parameter is missing or of the wrong type
│   ├── BodyTooLargeError     the body is over the configured size
│   ├── SlowBodyError         the body stands still
│   ├── AuthenticationError   no key, or one that is not known
│   ├── ForbiddenError        a key that does not suffice
│   │   ├── ModelForbiddenError   the key's models do not include this one
│   │   └── AdminClosedError      there is no administrator's key that would open this
│   ├── UnknownModelError     no replica serves that name
│   ├── UnknownPathError      no such path
│   ├── UnknownReplicaError   the fleet has no replica of that address
│   ├── ReloadRefusedError    the file cannot be put in force; the old settings stay
│   └── WrongMethodError      the path exists, the method does not
├── LimitError                a key's limit is reached
│   ├── RateLimitError        requests or tokens a minute
│   └── BudgetError           a budget is used up
├── GovernanceError           the limits cannot be kept at the moment
│   ├── QuotaLockError        a worker holds the counts for too long
│   ├── UsageUnwrittenError   usage cannot be written, and then nothing is to be served
│   └── UsageUnreadableError  the usage file cannot be read
├── ClientGoneError           the client closed its connection; logged, never answered
├── TooManyUploadsError       as many bodies as may be are on disk
├── StoppingError             the router stopped before the answer was complete
├── NoHealthyReplicaError     the model is known, but none of its replicas can be asked
├── NoRoomError               healthy replicas of the model are all at their limits
├── ReplicasBusyError         every replica of the model has said 429 and is left alone for a while
├── ReplicaError              one replica did not answer; another may
│   ├── ReplicaFailedError    refused, reset, no HTTP, or 502 to 504 before the first byte
│   ├── ReplicaGarbageError   200, but what followed is no answer
│   ├── ReplicaTimeoutError   nothing within the time allowed
│   └── ReplicaLeftError      a check found it down while it had not answered
├── StreamBrokenError         a stream broke after its first byte
├── LegError                  one of the two models behind a virtual one did not answer
├── SpoolError                the disk does not take a body
├── TrainingDataError         graded prompts cannot be used as they are; never reaches a client
├── PredictorFileError        a predictor's file cannot be read or written
├── EmbeddingError            a server of embeddings gave none that can be used; never reaches a client
├── StateFileError            the file of commands cannot be read or written
├── GradesUnwrittenError      the disk does not take grades
└── AdapterError              not every replica took an adapter command
"""

import math
from collections.abc import Callable, Iterable
from typing import ClassVar


class RouterError(Exception):
    """Root of the router's failures; its message is one line: what, the value, what to do."""

    exit_code: ClassVar[int] = 2
    param: str | None = None
    """The request field at fault, for the `param` of OpenAI's error body."""
    retry_after_seconds: float | None = None
    """When sending the request again may help, where the router knows."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Headers of the answer besides `retry-after`."""


class StartError(RouterError):
    """The address is taken or a file cannot be opened."""


class RequestError(RouterError):
    """The request cannot be served as it is; sending it again unchanged will not help."""


class MalformedBodyError(RequestError):
    """The body is not a JSON object in UTF-8."""


class ParameterError(RequestError):
    """A field or query parameter is missing or of the wrong type."""

    def __init__(self, param: str, problem: str) -> None:
        """Name the field or parameter and the problem."""
        super().__init__(f"{param}: {problem}")
        self.param = param


class BodyTooLargeError(RequestError):
    """The body is over the configured size."""

    def __init__(self, *, max_body_bytes: int) -> None:
        """State the limit in bytes."""
        super().__init__(f"the body is larger than {max_body_bytes} bytes; send a smaller one")
        self.max_body_bytes = max_body_bytes


class SlowBodyError(RequestError):
    """Nothing of the body came for too long."""

    def __init__(self, seconds: float) -> None:
        """State the limit in seconds."""
        super().__init__(f"nothing of the body came for {seconds:g} seconds; send it again")


class AuthenticationError(RequestError):
    """The request carries no key, or one that is not known; no message quotes it."""

    headers = ((b"www-authenticate", b"Bearer"),)


class ForbiddenError(RequestError):
    """The key is known and does not suffice."""


class ModelForbiddenError(ForbiddenError):
    """The key's models do not include the one asked for."""

    param = "model"

    def __init__(self, model: str, allowed: Iterable[str]) -> None:
        """Name the model and what the key may use."""
        names = ", ".join(allowed) or "none"
        super().__init__(f"this key may not use model {_short(model)}; it may use: {names}")


class AdminClosedError(ForbiddenError):
    """The path asks for an administrator's key, and the router has none."""

    def __init__(self, path: str) -> None:
        """Name the path and the setting that would open it."""
        super().__init__(f"{_short(path)} is closed; set governance.admin_key_file to open it")


class UnknownModelError(RequestError):
    """No replica serves a model or adapter of that name."""

    param = "model"

    def __init__(self, model: str, known: Iterable[str]) -> None:
        """Name the model asked for and those that exist."""
        self.model = model
        self.known = tuple(known)
        hint = f"use one of: {', '.join(self.known)}" if self.known else "there is none to use"
        super().__init__(f"model {_short(model)} does not exist; {hint}")

    def naming_only(self, allows: Callable[[str], bool]) -> "UnknownModelError":
        """Return this for a client that may know of the models that `allows` says."""
        return UnknownModelError(self.model, filter(allows, self.known))


class UnknownPathError(RequestError):
    """The router has no such path."""

    def __init__(self, path: str) -> None:
        """Name the path."""
        super().__init__(f"no such path: {_short(path)}; the API lives under /v1")


class UnknownReplicaError(RequestError):
    """The fleet has no replica of that address."""

    param = "url"

    def __init__(self, url: str) -> None:
        """Name the address."""
        super().__init__(f"no replica {_short(url)}; GET /admin/replicas lists them")


class ReloadRefusedError(RequestError):
    """The file cannot be put in force; the router goes on as it was."""

    def __init__(self, problem: str) -> None:
        """Say what is wrong with the file."""
        super().__init__(f"not reloaded, the old settings stay: {problem}")


class WrongMethodError(RequestError):
    """The path does not take this method."""

    def __init__(self, method: str, path: str, allowed: str) -> None:
        """Name the method, the path, and what the path takes."""
        super().__init__(f"{_short(path)} does not take {method}; use {allowed}")


class LimitError(RouterError):
    """A limit of the client's key is reached."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_seconds: float | None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """Say which limit, when there is room again (None: never), and the limits as headers."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.headers = headers


class RateLimitError(LimitError):
    """Requests or tokens a minute."""


class BudgetError(LimitError):
    """A budget is used up until its period ends."""


class GovernanceError(RouterError):
    """The limits cannot be kept at the moment, so the request is not served."""


class QuotaLockError(GovernanceError):
    """Another worker holds the counts of the limits."""

    def __init__(self, seconds: float) -> None:
        """State how long was waited."""
        super().__init__(f"the limits' counts were locked for {seconds:g} seconds; try again")


class UsageUnwrittenError(GovernanceError):
    """Usage cannot be written, and the configuration says not to serve then."""

    def __init__(self) -> None:
        """Point to the log."""
        super().__init__("usage cannot be written, see the router's log; try again later")


class UsageUnreadableError(GovernanceError):
    """The usage file cannot be read."""

    def __init__(self, problem: str) -> None:
        """Name the problem."""
        super().__init__(f"the usage file cannot be read ({problem}); check its disk")


class ClientGoneError(RouterError):
    """The client closed its connection before the answer was complete."""

    def __init__(self) -> None:
        """The message goes to the log only."""
        super().__init__("the client closed its connection")


class TooManyUploadsError(RouterError):
    """As many uploads as may be are kept on disk."""

    def __init__(self, num_uploads: int) -> None:
        """State how many."""
        super().__init__(f"{num_uploads} uploads are under way, the most at once; try again later")


class StoppingError(RouterError):
    """The router stopped before the answer was complete."""

    def __init__(self) -> None:
        """Ask for a repetition."""
        super().__init__("the router is stopping; send the request again")


class NoHealthyReplicaError(RouterError):
    """The model is known, but checks find its replicas down, or requests fail there."""

    def __init__(self, model: str, *, num_replicas: int) -> None:
        """Name the model and how many replicas it has."""
        super().__init__(
            f"none of the {num_replicas} replicas of model {_short(model)} can be asked: "
            "checks or requests fail there (filter: health); try again later"
        )
        self.model = model
        self.num_replicas = num_replicas


class NoRoomError(RouterError):
    """Every healthy replica of the model has as much work as its limits allow."""

    def __init__(self, model: str) -> None:
        """Name the model, and the filter that left no replica."""
        super().__init__(
            f"every healthy replica of model {_short(model)} is full (filter: room); try again later"
        )
        self.model = model


class ReplicasBusyError(RouterError):
    """Every replica of the model has said 429 not long ago and is left alone."""

    def __init__(self, model: str, *, retry_after_seconds: float) -> None:
        """Name the model, and when the first of its replicas is asked again."""
        self.retry_after_seconds = max(1, math.ceil(retry_after_seconds))
        super().__init__(
            f"every replica of model {_short(model)} is busy; "
            f"try again in {self.retry_after_seconds} seconds"
        )
        self.model = model


class ReplicaError(RouterError):
    """One replica did not answer a request; nothing has been sent to the client."""

    reason: ClassVar[str] = "failed"
    """A stable word for counters and logs."""

    def __init__(self, url: str, problem: str) -> None:
        """Name the replica and the problem."""
        super().__init__(f"replica {url} {problem}; try again")
        self.url = url
        self.problem = problem


class ReplicaFailedError(ReplicaError):
    """The connection failed, the answer was no HTTP, or its status was 502, 503 or 504."""


class ReplicaGarbageError(ReplicaError):
    """The status was 200, but what followed is no answer."""

    reason = "garbage"


class ReplicaTimeoutError(ReplicaError):
    """The replica did not accept the connection or send its first byte in time."""

    reason = "timeout"


class ReplicaLeftError(ReplicaError):
    """A check found the replica down while a request waited for its first byte."""

    reason = "left"


class StreamBrokenError(RouterError):
    """The replica's stream broke after its first byte had been sent to the client."""

    def __init__(self, url: str, problem: str) -> None:
        """Name the replica and the problem."""
        super().__init__(f"the stream of replica {url} broke: {problem}; send the request again")
        self.url = url
        self.problem = problem


class LegError(RouterError):
    """One of the two models behind a virtual one did not answer, retries on its replicas included."""

    def __init__(self, model: str, problem: str, *, said: str = "") -> None:
        """Name the model and the problem; what its replica `said` is no part of the message."""
        super().__init__(f"model {_short(model)} gave no answer: {problem}")
        self.model = model
        self.problem = problem
        self.said = said
        """For the client only: a replica may repeat the prompt, and messages reach the log."""


class SpoolError(RouterError):
    """A body that is kept on disk cannot be written."""

    def __init__(self, error: OSError) -> None:
        """Say why, and which setting names another place."""
        super().__init__(
            f"the body cannot be kept on disk ({error.strerror}); make room, or set spool_folder"
        )


class TrainingDataError(RouterError):
    """Graded prompts are malformed, or too few to fit anything."""


class EmbeddingError(RouterError):
    """A server of embeddings gave none that can be used; requests go on without."""


class PredictorFileError(RouterError):
    """A predictor's file is missing, damaged or of another version, or cannot be written."""


class StateFileError(RouterError):
    """The file that keeps what commands have changed of the fleet cannot be read or written."""


class GradesUnwrittenError(RouterError):
    """Grades cannot be appended to their file."""


class AdapterError(RouterError):
    """Some replica did not take an adapter command; on those that did, it stays done."""

    def __init__(self, failures: dict[str, str], *, done: list[str]) -> None:
        """Name each replica that failed and what it said, and those that did as told."""
        told = "; ".join(f"{url} {problem}" for url, problem in failures.items())
        num_replicas = len(failures) + len(done)
        super().__init__(
            f"{len(failures)} of {num_replicas} replicas failed: {told}; "
            f"done on {', '.join(done) or 'none'}"
        )
        self.failures = failures


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 120 else shown[:116] + "...'"
