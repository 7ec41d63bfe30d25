"""The keys the router sends to replicas in place of clients' keys.

Keys are known by their files, which are read each time that the router's file is; that of a replica
which comes by a command when it comes, too.
"""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from planner.errors import DocumentError
from planner.key_file import read_key
from router.config import ReplicaConfig, RouterConfig
from router.discovery.config import DnsSource

BEARER = "Bearer "

Headers = tuple[tuple[str, str], ...]

logger = logging.getLogger(__name__)


class ReplicaKeys:
    """What stands in `Authorization` on the way to each replica.

    Replicas without a key of their own get what the client sent, or nothing.

    Args:
        withholds_clients: Whether clients' keys are the router's own and never leave it.
    """

    def __init__(self, *, withholds_clients: bool = False) -> None:
        self._withholds_clients = withholds_clients
        self._files: dict[Path, str] = {}
        self._headers: dict[str, tuple[str, str]] = {}
        self._check_headers: Headers = ()

    def configure(self, files: Mapping[Path, str], *, check_file: Path | None) -> None:
        """Know these keys by file from now on; that of `check_file` is for other replicas' checks."""
        self._files |= files
        self._check_headers = () if check_file is None else (_header(self._files[check_file]),)

    def read(self, path: Path) -> None:
        """Know the key of one more file, or know it anew.

        Raises:
            DocumentError: If it cannot be read or holds no key.
        """
        self._files[path] = read_key(path)

    def can_serve(self, replica: ReplicaConfig) -> bool:
        """Return whether a replica needs no key or its key is known; read it where it is not yet."""
        path = replica.api_key_file
        if path is None or path in self._files:
            return True
        try:
            self.read(path)
        except DocumentError as error:
            logger.error(
                "replica left out, its key is missing url=%s problem=%s", replica.url, error
            )
            return False
        return True

    def give(self, replicas: Iterable[ReplicaConfig]) -> None:
        """Send each of these replicas its key, where it has one; the first word on an address holds."""
        paths: dict[str, Path | None] = {}
        for replica in replicas:
            paths[replica.url] = paths.get(replica.url) or replica.api_key_file
        for url, path in paths.items():
            self.forget(url)
            if path is not None:
                self._headers[url] = _header(self._files[path])

    def forget(self, url: str) -> None:
        """Send no key to the replica at `url`."""
        self._headers.pop(url, None)

    def request_headers(self, url: str, headers: Headers) -> Headers:
        """Return a client's headers as the replica at `url` gets them."""
        own = self._headers.get(url)
        if own is None and not self._withholds_clients:
            return headers
        kept = tuple([each for each in headers if each[0] != "authorization"])
        return kept if own is None else (*kept, own)

    def has_own(self, url: str) -> bool:
        """Return whether the replica at `url` gets a key of its own."""
        return url in self._headers

    def masked(self, url: str, body: bytes) -> bytes:
        """Return what the replica at `url` said, without its own key."""
        own = self._headers.get(url)
        if own is None:
            return body
        return body.replace(own[1].removeprefix(BEARER).encode(), b"[the replica's key]")

    def check_headers(self, url: str) -> Headers:
        """Return the headers of the router's own requests to the replica at `url`."""
        own = self._headers.get(url)
        return self._check_headers if own is None else (own,)


def read_key_files(config: RouterConfig, *, added: Iterable[ReplicaConfig] = ()) -> dict[Path, str]:
    """Return the keys that a configuration names files of, by file.

    Args:
        config: The router's.
        added: Replicas that do not stand in it.

    Raises:
        DocumentError: If one of the files cannot be read or holds no key.
    """
    paths = [replica.api_key_file for model in config.models for replica in model.replicas]
    sources = config.discovery.sources
    paths += [source.api_key_file for source in sources if isinstance(source, DnsSource)]
    paths += [replica.api_key_file for replica in added]
    paths.append(config.health.api_key_file)
    return {path: read_key(path) for path in paths if path is not None}


def _header(key: str) -> tuple[str, str]:
    return ("authorization", BEARER + key)
