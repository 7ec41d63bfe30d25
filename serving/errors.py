"""Failures of the serving layer and how each one reaches an HTTP client.

ServingError
├── ModelError              a model or adapter folder that cannot be loaded
│   └── AdapterError        an adapter that does not fit the base model
├── AddressError            the address to listen on cannot be had
├── SetupError              an engine's own environment that cannot be made or used
├── RequestError            a request that cannot be served as asked
│   ├── ContextLengthError  prompt and answer do not fit the context or the KV memory
│   ├── UnsupportedError    a field whose meaning this endpoint does not have
│   ├── NotFoundError       a model, adapter or path that does not exist
│   ├── MethodError         a path that exists but takes another method
│   └── TooLargeError       a body above the size limit
├── OverloadedError         the queue is full
└── EngineError             the engine failed; the fault is ours
    └── UnavailableError    the engine is loading, draining or stopped
"""

from typing import ClassVar


class ServingError(Exception):
    """Root of the serving layer's failures; its message is one line."""

    exit_code: ClassVar[int] = 2


class ModelError(ServingError):
    """A model folder is missing, malformed, or of a kind the engine cannot run."""


class AdapterError(ModelError):
    """An adapter folder is missing, malformed, or does not fit the base model."""


class AddressError(ServingError):
    """The address to listen on is taken or not ours."""


class SetupError(ServingError):
    """An engine's own environment cannot be made or used."""


class RequestError(ServingError):
    """A request cannot be served as asked; `param` names the field at fault."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Keep the one-line message and the field it is about."""
        super().__init__(message)
        self.param = param


class ContextLengthError(RequestError):
    """Prompt and answer do not fit the context or the KV memory."""


class UnsupportedError(RequestError):
    """A field would change the meaning of the request and is not supported."""


class NotFoundError(RequestError):
    """The named model, adapter or path does not exist."""


class MethodError(RequestError):
    """The path exists but takes another method."""


class TooLargeError(RequestError):
    """The body is above the size limit."""


class OverloadedError(ServingError):
    """The queue of waiting requests is full."""


class EngineError(ServingError):
    """The engine failed while serving the request."""

    exit_code: ClassVar[int] = 1


class UnavailableError(EngineError):
    """The engine is loading, draining or stopped."""


HTTP_ERRORS: dict[type[ServingError], tuple[int, str]] = {
    ModelError: (400, "BadRequestError"),
    AdapterError: (400, "BadRequestError"),
    AddressError: (500, "InternalServerError"),
    SetupError: (500, "InternalServerError"),
    RequestError: (400, "BadRequestError"),
    ContextLengthError: (400, "BadRequestError"),
    UnsupportedError: (400, "BadRequestError"),
    NotFoundError: (404, "NotFoundError"),
    MethodError: (405, "MethodNotAllowedError"),
    TooLargeError: (413, "RequestTooLargeError"),
    OverloadedError: (429, "RateLimitError"),
    EngineError: (500, "InternalServerError"),
    UnavailableError: (503, "ServiceUnavailableError"),
}
"""The one table from our exceptions to HTTP status and OpenAI error type."""


def error_body(error: ServingError) -> tuple[int, dict[str, object]]:
    """Return the HTTP status and OpenAI's error body for `error`."""
    status, kind = HTTP_ERRORS[type(error)]
    param = error.param if isinstance(error, RequestError) else None
    content = {"message": str(error), "type": kind, "param": param, "code": status}
    return status, {"error": content}
