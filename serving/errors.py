"""Failures of the serving layer and how each one reaches an HTTP client.

ServingError
├── ModelError              a model or adapter folder that cannot be loaded
│   └── AdapterError        an adapter that does not fit the base model
├── AddressError            the address to listen on cannot be had
├── KeyFileError            keys or certificates that cannot be used
├── SetupError              an engine's own environment that cannot be made or used
├── RequestError            a request that cannot be served as asked
│   ├── ContextLengthError  prompt and answer do not fit the context or the KV memory
│   ├── UnsupportedError    a field whose meaning this endpoint does not have
│   ├── NotFoundError       a model, adapter or path that does not exist
│   ├── MethodError         a path that exists but takes another method
│   └── TooLargeError       a body above the size limit
├── AuthenticationError     no key, or one that is not known
├── ForbiddenError          a key that does not suffice, a folder outside the allowed ones, a page
├── SlowRequestError        a request that took longer than it may
├── OverloadedError         the queue is full
├── StorageError            an upload that the disk does not take
└── EngineError             the engine failed; the fault is ours
    └── UnavailableError    the engine is loading, restarting, draining or stopped
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


class KeyFileError(ServingError):
    """Keys or certificates cannot be read or used."""


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


class AuthenticationError(ServingError):
    """The request carries no key, or one that is not known."""


class ForbiddenError(ServingError):
    """The key does not suffice, the folder is not allowed, or a page of another site asks."""


class SlowRequestError(ServingError):
    """The request took longer than it may."""


class OverloadedError(ServingError):
    """The queue of waiting requests is full."""


class StorageError(ServingError):
    """An upload cannot be written; the message says where."""

    exit_code: ClassVar[int] = 1


class EngineError(ServingError):
    """The engine failed while serving the request."""

    exit_code: ClassVar[int] = 1


class UnavailableError(EngineError):
    """The engine is loading, restarting, draining or stopped."""


HTTP_ERRORS: dict[type[ServingError], tuple[int, str]] = {
    ModelError: (400, "BadRequestError"),
    AdapterError: (400, "BadRequestError"),
    AddressError: (500, "InternalServerError"),
    KeyFileError: (500, "InternalServerError"),
    SetupError: (500, "InternalServerError"),
    RequestError: (400, "BadRequestError"),
    ContextLengthError: (400, "BadRequestError"),
    UnsupportedError: (400, "BadRequestError"),
    NotFoundError: (404, "NotFoundError"),
    MethodError: (405, "MethodNotAllowedError"),
    TooLargeError: (413, "RequestTooLargeError"),
    AuthenticationError: (401, "AuthenticationError"),
    ForbiddenError: (403, "PermissionDeniedError"),
    SlowRequestError: (408, "RequestTimeoutError"),
    OverloadedError: (429, "RateLimitError"),
    StorageError: (507, "InsufficientStorageError"),
    EngineError: (500, "InternalServerError"),
    UnavailableError: (503, "ServiceUnavailableError"),
}
"""The one table from our exceptions to HTTP status and OpenAI error type."""

RETRY_SECONDS = 1
"""When a client that was refused for load or a restart may come again, in `Retry-After`."""


def error_headers(error: ServingError) -> dict[str, str]:
    """Return the headers that belong to an answer with `error`."""
    status, _ = HTTP_ERRORS[type(error)]
    if status == 401:
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(RETRY_SECONDS)} if status in (429, 503) else {}


def error_body(error: ServingError) -> tuple[int, dict[str, object]]:
    """Return the HTTP status and OpenAI's error body for `error`."""
    status, kind = HTTP_ERRORS[type(error)]
    param = error.param if isinstance(error, RequestError) else None
    content = {"message": str(error), "type": kind, "param": param, "code": status}
    return status, {"error": content}
