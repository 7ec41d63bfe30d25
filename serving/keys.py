"""Who may ask: API keys, kept as digests and compared in constant time."""

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from serving.errors import AuthenticationError, ForbiddenError, KeyFileError

logger = logging.getLogger(__name__)

_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without white space: what a header can carry unchanged."""


class KeyRing:
    """User keys and admin keys; without any, everybody may do everything."""

    def __init__(self, user_keys: Iterable[str] = (), admin_keys: Iterable[str] = ()) -> None:
        """Remember the keys' digests only."""
        self._users = [_digest(key) for key in user_keys]
        self._admins = [_digest(key) for key in admin_keys]

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._users and not self._admins

    def check(self, authorization: str | None, *, needs_admin: bool) -> None:
        """Check the `Authorization` header of a request.

        An admin key opens everything. Where only user keys are known, nothing opens what needs an
        admin.

        Raises:
            AuthenticationError: If there is no known key in it.
            ForbiddenError: If the key is a user's and the request needs an admin's.
        """
        if self.is_open:
            return
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise AuthenticationError("no API key; send the header Authorization: Bearer KEY")
        digest = _digest(key.strip())
        is_admin, is_user = _holds(self._admins, digest), _holds(self._users, digest)
        if not is_admin and not is_user:
            raise AuthenticationError("the API key is not known here; check it")
        if needs_admin and not is_admin:
            hint = "use one" if self._admins else "this endpoint was started without any"
            raise ForbiddenError(f"this needs an admin key; {hint}")


def read_keys(path: Path | None, words: str | None) -> list[str]:
    """Return the keys of a file, one a line, and of comma-separated words.

    Empty lines and those that begin with `#` are skipped.

    Raises:
        KeyFileError: If the file cannot be read, or holds or lists no key or a malformed one.
    """
    keys = _read_file(path) if path is not None else []
    listed = [word.strip() for word in (words or "").split(",") if word.strip()]
    for key in listed:
        if not _KEY.fullmatch(key):
            raise KeyFileError("a key in the environment holds white space or non-ASCII; change it")
    return [*keys, *listed]


def _read_file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        is_public = bool(path.stat().st_mode & 0o044)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise KeyFileError(f"{path}: cannot be read ({reason}); name a file of keys") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not _KEY.fullmatch(key):
            raise KeyFileError(
                f"{path}: line {number} is no key; use printable ASCII without white space"
            )
        keys.append(key)
    if not keys:
        raise KeyFileError(f"{path}: holds no key; write one a line")
    if is_public:
        logger.warning("key file is readable by others path=%s; chmod 600 it", path)
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _holds(digests: list[bytes], digest: bytes) -> bool:
    """Whether one of `digests` is it; looks at all of them, whichever it is."""
    is_found = False
    for known in digests:
        is_found |= hmac.compare_digest(known, digest)
    return is_found
