"""The keys the router sends to replicas in place of clients' keys."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from planner.key_file import read_key
from router.config import ModelConfig

Headers = tuple[tuple[str, str], ...]


class ReplicaKeys:
    """What stands in `Authorization` on the way to each replica.

    Args:
        keys: Address → key; replicas without one get what the client sent, or nothing.
        withholds_clients: Whether clients' keys are the router's own and never leave it.
        check_key: For checks of replicas without a key of their own.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        withholds_clients: bool = False,
        check_key: str | None = None,
    ) -> None:
        self._headers = {url: _header(key) for url, key in (keys or {}).items()}
        self._withholds_clients = withholds_clients
        self._check_headers: Headers = () if check_key is None else (_header(check_key),)

    def request_headers(self, url: str, headers: Headers) -> Headers:
        """Return a client's headers as the replica at `url` gets them."""
        own = self._headers.get(url)
        if own is None and not self._withholds_clients:
            return headers
        kept = tuple([each for each in headers if each[0] != "authorization"])
        return kept if own is None else (*kept, own)

    def check_headers(self, url: str) -> Headers:
        """Return the headers of the router's own requests to the replica at `url`."""
        own = self._headers.get(url)
        return self._check_headers if own is None else (own,)


NO_KEYS = ReplicaKeys()
"""Clients' keys pass unchanged, and checks carry none."""


def read_replica_keys(
    models: Sequence[ModelConfig], *, withholds_clients: bool, check_key_file: Path | None
) -> ReplicaKeys:
    """Return the keys that a configuration names files of.

    Raises:
        DocumentError: If one of the files cannot be read or holds no key.
    """
    keys = {
        replica.url: read_key(replica.api_key_file)
        for model in models
        for replica in model.replicas
        if replica.api_key_file is not None
    }
    check_key = None if check_key_file is None else read_key(check_key_file)
    return ReplicaKeys(keys, withholds_clients=withholds_clients, check_key=check_key)


def _header(key: str) -> tuple[str, str]:
    return ("authorization", f"Bearer {key}")
