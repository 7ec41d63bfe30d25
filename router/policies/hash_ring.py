"""A consistent-hash ring: where on a circle each replica stands, at many places.

Positions come from BLAKE2b, so every process has the same ring. A replica that joins or leaves moves
only the keys next to its own places, about one in n. There is no list of all places: each replica's
own are searched, so that what other models' replicas do costs nothing.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from hashlib import blake2b

_CIRCLE = 2**64
_MOST_REPLICAS = 4096
"""Whose places are kept, some 11 KiB each for 256 of them; the longest unused go first."""


def position(key: bytes) -> int:
    """Return where `key` lies on the circle, of 64 bits."""
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


class HashRing:
    """The places of replicas, worked out when one is first asked about."""

    __slots__ = ("_places",)

    def __init__(self, *, virtual_nodes: int) -> None:
        """Give each replica so many places."""
        places = partial(_places, virtual_nodes=virtual_nodes)
        self._places: Callable[[str], list[int]] = lru_cache(_MOST_REPLICAS)(places)

    def next_places(self, start: int, urls: Iterable[str]) -> dict[str, int]:
        """Return where clockwise from `start` each replica stands next, beyond 2**64 once round."""
        places = self._places
        return {url: (own := places(url))[bisect_right(own, start)] for url in urls}


def _places(url: str, *, virtual_nodes: int) -> list[int]:
    """Return a replica's places, rising; the first stands a second time one circle on."""
    places = sorted(position(f"{url}#{number}".encode()) for number in range(virtual_nodes))
    return [*places, places[0] + _CIRCLE]
