"""The address of a replica, and the name of several, as files and commands write them."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from planner.documents import SECRET


def _findable(host: str) -> str:
    try:
        host.encode("idna")  # as every lookup does
    except UnicodeError:
        problem = "names no host; write parts of 1 to 63 characters with single dots between them"
        raise ValueError(problem) from None
    return host


HostName = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_findable)]
"""What can be looked up, as far as its spelling tells."""


def _checked(url: str) -> str:
    authority = (url.partition("//")[2] or url).partition("/")[0]
    if "@" in authority:
        # It would stand in logs, metrics and answers.
        raise PydanticCustomError(
            SECRET, "must carry no user and no password; name the file of a key by api_key_file"
        )
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(
            "must be printable ASCII without blanks; write a host as xn--..., the rest as %XX"
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://HOST:PORT or https://HOST")
    if parts.query or parts.fragment:
        raise PydanticCustomError(SECRET, "must carry no query and no fragment; remove them")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("must not end in /v1; the router adds it")
    _findable(parts.hostname)
    _ = parts.port  # raises ValueError when it is no number up to 65535
    return url.rstrip("/")


ReplicaUrl = Annotated[str, AfterValidator(_checked)]
"""Without `/v1` and without a slash at its end, such as `http://127.0.0.1:8001`."""
