"""A consistent-hash ring: where on a circle each replica stands, at many places.

Positions come from BLAKE2b, so every process has the same ring. A replica that joins or leaves moves
only the keys next to its own places, about one in n.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from hashlib import blake2b


def position(key: bytes) -> int:
    """Return where `key` lies on the circle, of 64 bits."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


class HashRing:
    """The places of some replicas, fixed."""

    __slots__ = ("_owners", "_positions", "urls")

    def __init__(self, urls: Iterable[str], *, virtual_nodes: int) -> None:
        """Give each replica so many places."""
        self.urls = frozenset(urls)
        places = sorted(
            (position(f"{url}#{number}".encode()), url)
            for url in self.urls
            for number in range(virtual_nodes)
        )
        self._positions = [place for place, _ in places]
        self._owners = [url for _, url in places]

    def walk(self, start: int) -> Iterator[str]:
        """Yield the owners clockwise from `start`, once round; a replica comes up many times."""
        first = bisect_right(self._positions, start)
        for place in range(first, len(self._owners)):
            yield self._owners[place]
        for place in range(first):
            yield self._owners[place]
