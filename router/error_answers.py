"""The one table that turns each failure of `errors.py` into an HTTP answer."""

from router.errors import (
    AdapterError,
    AdminClosedError,
    AuthenticationError,
    BodyTooLargeError,
    BudgetError,
    ClientGoneError,
    ForbiddenError,
    GovernanceError,
    LegError,
    LimitError,
    MalformedBodyError,
    ModelForbiddenError,
    NoHealthyReplicaError,
    NoRoomError,
    ParameterError,
    PredictorFileError,
    QuotaLockError,
    RateLimitError,
    ReloadRefusedError,
    ReplicaError,
    ReplicaFailedError,
    ReplicaGarbageError,
    ReplicaLeftError,
    ReplicasBusyError,
    ReplicaTimeoutError,
    RequestError,
    RouterError,
    SlowBodyError,
    SpoolError,
    StartError,
    StateFileError,
    StoppingError,
    StreamBrokenError,
    TooManyUploadsError,
    TrainingDataError,
    UnknownModelError,
    UnknownPathError,
    UnknownReplicaError,
    UsageUnreadableError,
    UsageUnwrittenError,
    WrongMethodError,
)

ANSWERS: dict[type[RouterError], tuple[int, str]] = {
    RouterError: (500, "InternalServerError"),
    StartError: (500, "InternalServerError"),
    RequestError: (400, "BadRequestError"),
    MalformedBodyError: (400, "BadRequestError"),
    ParameterError: (400, "BadRequestError"),
    BodyTooLargeError: (413, "RequestTooLargeError"),
    SlowBodyError: (408, "RequestTimeoutError"),
    AuthenticationError: (401, "AuthenticationError"),
    ForbiddenError: (403, "PermissionDeniedError"),
    ModelForbiddenError: (403, "PermissionDeniedError"),
    AdminClosedError: (403, "PermissionDeniedError"),
    UnknownModelError: (404, "NotFoundError"),
    UnknownPathError: (404, "NotFoundError"),
    UnknownReplicaError: (404, "NotFoundError"),
    ReloadRefusedError: (400, "BadRequestError"),
    WrongMethodError: (405, "MethodNotAllowedError"),
    LimitError: (429, "RateLimitError"),
    RateLimitError: (429, "RateLimitError"),
    BudgetError: (429, "InsufficientQuotaError"),
    GovernanceError: (503, "ServiceUnavailableError"),
    QuotaLockError: (503, "ServiceUnavailableError"),
    UsageUnwrittenError: (503, "ServiceUnavailableError"),
    UsageUnreadableError: (503, "ServiceUnavailableError"),
    ClientGoneError: (499, "ClientClosedRequestError"),
    TooManyUploadsError: (429, "RateLimitError"),
    StoppingError: (503, "ServiceUnavailableError"),
    NoHealthyReplicaError: (503, "ServiceUnavailableError"),
    NoRoomError: (429, "RateLimitError"),
    ReplicasBusyError: (429, "RateLimitError"),
    ReplicaError: (502, "BadGatewayError"),
    ReplicaFailedError: (502, "BadGatewayError"),
    ReplicaGarbageError: (502, "BadGatewayError"),
    ReplicaLeftError: (504, "GatewayTimeoutError"),
    ReplicaTimeoutError: (504, "GatewayTimeoutError"),
    StreamBrokenError: (502, "BadGatewayError"),
    LegError: (503, "ServiceUnavailableError"),
    SpoolError: (507, "InsufficientStorageError"),
    TrainingDataError: (500, "InternalServerError"),
    PredictorFileError: (500, "InternalServerError"),
    StateFileError: (500, "InternalServerError"),
    AdapterError: (502, "BadGatewayError"),
}
"""Error class → (HTTP status, `type` of OpenAI's error body). Every class has its own row."""


def status_of(error: RouterError) -> int:
    """Return the HTTP status that answers `error`."""
    return ANSWERS[type(error)][0]


def error_body(error: RouterError) -> dict[str, object]:
    """Return OpenAI's error body; its `code` is the integer status, as vLLM's is."""
    status, kind = ANSWERS[type(error)]
    return {
        "error": {"message": str(error), "type": kind, "param": error.param, "code": status},
    }
