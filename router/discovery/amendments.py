"""What commands have changed of the fleet: a value, and where it is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from router.discovery.member import Member


@dataclass(frozen=True, slots=True)
class Amendments:
    """Replicas added, and addresses sent away, by command."""

    added: tuple[Member, ...] = ()
    """In the order of their commands, one for each address and model."""
    withheld: frozenset[str] = frozenset()
    """Addresses that stay out of the fleet, whoever names them."""

    def adding(self, member: Member) -> "Amendments":
        """Return these with `member` in place of what was said of its address and model before."""
        kept = tuple(each for each in self.added if _place(each) != _place(member))
        return Amendments((*kept, member), self.withheld - {member.replica.url})

    def without(self, url: str, *, is_named_elsewhere: bool) -> "Amendments":
        """Return these without the replica at `url`; withheld where other sources name it."""
        kept = tuple(each for each in self.added if each.replica.url != url)
        withheld = self.withheld | {url} if is_named_elsewhere else self.withheld - {url}
        return Amendments(kept, withheld)


Change = Callable[[Amendments], Amendments]


class AmendmentStore(Protocol):
    """Keeps the amendments; all changes go through it, one after another."""

    def change(self, change: Change) -> Amendments:
        """Apply `change` to what is kept, keep the outcome and return it."""
        ...

    def stamp(self) -> object:
        """Return a value that changes when another process has changed what is kept."""
        ...


class MemoryStore:
    """Keeps them as long as the process lives."""

    def __init__(self) -> None:
        self._kept = Amendments()

    def change(self, change: Change) -> Amendments:
        """Apply `change`."""
        self._kept = change(self._kept)
        return self._kept

    def stamp(self) -> object:
        """Return always the same: no other process sees this store."""
        return None


def _place(member: Member) -> tuple[str, str]:
    return member.replica.url, member.model
