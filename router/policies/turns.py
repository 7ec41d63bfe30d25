"""Whose turn it is: of several replicas, the one that was picked longest ago.

Unlike a counter this stays fair when replicas come and go between picks. Replicas never picked come
first. Only the last `MOST_REMEMBERED` are remembered, so that fleets may change for years.
"""

from collections import OrderedDict

MOST_REMEMBERED = 4096


class Turns:
    """When each replica was last picked, as a number that grows with every pick."""

    __slots__ = ("_last", "_turn")

    def __init__(self) -> None:
        self._turn = 0
        self._last: OrderedDict[str, int] = OrderedDict()

    def last(self, url: str) -> int:
        """Return the turn of the replica's last pick, 0 before the first."""
        return self._last.get(url, 0)

    def picked(self, url: str) -> None:
        """Take note of a pick."""
        self._turn += 1
        self._last[url] = self._turn
        self._last.move_to_end(url)
        if len(self._last) > MOST_REMEMBERED:
            self._last.popitem(last=False)
