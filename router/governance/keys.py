"""From the `Authorization` header to a client, by the key's SHA-256.

What is looked up is the digest of what the client sent, so the time a lookup takes says nothing about
any key; keys themselves are not kept.
"""

import hashlib
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from planner.documents import read_document
from planner.errors import DocumentError
from planner.key_file import read_key
from router.errors import AuthenticationError
from router.exchange import header
from router.governance.tenant import NANOUSD_PER_USD, BudgetLimit, Limits, Tenant
from router.governance_config import BudgetConfig, KeyConfig, KeysFile

Headers = Iterable[tuple[bytes, bytes]]


class KeyRing:
    """The keys' digests, and whose they are."""

    def __init__(self, tenants: Mapping[bytes, Tenant]) -> None:
        """Take clients by the SHA-256 of their keys."""
        self._tenants = dict(tenants)

    @property
    def tenants(self) -> tuple[Tenant, ...]:
        """Every client, in the order of the file."""
        return tuple(self._tenants.values())

    def identify(self, headers: Headers) -> Tenant:
        """Return whose key the request carries.

        Raises:
            AuthenticationError: If it carries none, or one that is not known.
        """
        tenant = self._tenants.get(digest_of(bearer(headers)))
        if tenant is None:
            raise AuthenticationError("the API key is not known here; check it")
        return tenant


def bearer(headers: Headers) -> bytes:
    """Return the key a request carries.

    Raises:
        AuthenticationError: If there is none.
    """
    scheme, _, key = header(headers, b"authorization").partition(b" ")
    key = key.strip()
    if scheme.lower() != b"bearer" or not key:
        raise AuthenticationError("no API key; send the header Authorization: Bearer KEY")
    return key


def digest_of(key: bytes) -> bytes:
    """Return a key's SHA-256."""
    return hashlib.sha256(key).digest()


def read_key_ring(path: Path) -> KeyRing:
    """Return the keys of a file.

    Raises:
        DocumentError: If it or a file of a key is missing, malformed or readable by others.
    """
    tenants: dict[bytes, Tenant] = {}
    for place, entry in enumerate(read_document(path, KeysFile).keys):
        digest = _digest(path, place, entry)
        if digest in tenants:
            owner = tenants[digest].name
            raise DocumentError(path, f"keys.{place}: is the key of {owner!r}; make another")
        tenants[digest] = Tenant(entry.name, entry.models, _limits(entry))
    return KeyRing(tenants)


def _digest(path: Path, place: int, entry: KeyConfig) -> bytes:
    if entry.sha256 is not None:
        return bytes.fromhex(entry.sha256)
    assert entry.key_file is not None
    key_path = path.parent / entry.key_file
    key = read_key(key_path)
    if stat.S_IMODE(key_path.stat().st_mode) & 0o077:
        where = f"keys.{place}.key_file: {key_path}"
        raise DocumentError(path, f"{where} can be read by others; chmod 600 it")
    return digest_of(key.encode())


def _limits(entry: KeyConfig) -> Limits:
    return Limits(
        requests_per_minute=entry.requests_per_minute,
        tokens_per_minute=entry.tokens_per_minute,
        budgets=tuple(_budget(each) for each in entry.budgets),
    )


def _budget(entry: BudgetConfig) -> BudgetLimit:
    cost = None if entry.usd is None else round(entry.usd * NANOUSD_PER_USD)
    return BudgetLimit(per=entry.per, tokens=entry.tokens, cost_nanousd=cost)
