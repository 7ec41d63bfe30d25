"""The one place where the sources of replicas meet, and what they say together becomes the fleet.

Each source states its whole list whenever that changes. A newcomer is checked before it gets
requests. What no source names any more is drained: at once where each of its models keeps a healthy
replica, otherwise after the newcomers have been checked, so that a replacement leaves no gap.
"""

import asyncio
import itertools
from collections.abc import Collection, Sequence

from router.discovery.amendments import Amendments, AmendmentStore, Change
from router.discovery.member import CONFIG, Member
from router.fleet import Fleet
from router.health import HealthMonitor


class Roster:
    """Who belongs to the fleet, by source."""

    def __init__(
        self,
        fleet: Fleet,
        monitor: HealthMonitor,
        members: Sequence[Member],
        store: AmendmentStore,
    ) -> None:
        """Begin with the `members` of the file, which are in the fleet already."""
        self._fleet = fleet
        self._monitor = monitor
        self._by_source: dict[str, tuple[Member, ...]] = {CONFIG: tuple(members)}
        self._store = store
        self._amendments = Amendments()
        self._lock = asyncio.Lock()

    @property
    def withheld(self) -> frozenset[str]:
        """Addresses that were sent away by a command, whoever names them."""
        return self._amendments.withheld

    async def state(
        self, changes: dict[str, Sequence[Member]], *, base_models: Sequence[str] | None = None
    ) -> None:
        """Take what sources say now, and return when the fleet follows it.

        Args:
            changes: Source to all that it names; nothing ends the source.
            base_models: The models of the file, where they have changed. Members of others are kept
                in mind, but serve nothing.
        """
        async with self._lock:
            for source, members in changes.items():
                self._by_source[source] = tuple(members)
            if base_models is not None:
                self._fleet.base_models = tuple(base_models)
            await self._follow()

    async def add(self, member: Member) -> None:
        """Add a member by command, or take it back if its address had been sent away."""
        await self._amend(lambda now: now.adding(member))

    async def send_away(self, url: str) -> None:
        """Drain a replica by command, whoever named it."""
        await self._amend(
            lambda now: now.without(url, is_named_elsewhere=self._is_named_elsewhere(url))
        )

    async def _amend(self, change: Change) -> None:
        async with self._lock:
            self._amendments = self._store.change(change)
            await self._follow()

    def _is_named_elsewhere(self, url: str) -> bool:
        named = itertools.chain.from_iterable(self._by_source.values())
        return any(member.replica.url == url for member in named)

    async def _follow(self) -> None:
        wanted = self._wanted()
        urls = {member.replica.url for member in wanted}
        newcomers = self._fleet.admit(wanted)
        leavers = [each.url for each in self._fleet.replicas if each.url not in urls]
        self._fleet.drain(url for url in leavers if self._is_spared(url, urls))
        try:
            await self._monitor.welcome(newcomers)
        finally:
            self._fleet.drain(leavers)

    def _wanted(self) -> tuple[Member, ...]:
        """Return all that is named, the file's first, without what is withheld or serves no model."""
        known = set(self._fleet.base_models)
        sources = sorted(self._by_source, key=lambda source: (source != CONFIG, source))
        named = itertools.chain(
            *[self._by_source[source] for source in sources], self._amendments.added
        )
        withheld = self._amendments.withheld
        return tuple(
            member
            for member in named
            if member.model in known and member.replica.url not in withheld
        )

    def _is_spared(self, url: str, staying: Collection[str]) -> bool:
        """Return whether each model of a replica keeps a healthy one among those `staying`."""
        replica = self._fleet.find(url)
        return replica is not None and all(
            any(each.is_healthy and each.url in staying for each in self._fleet.configured(model))
            for model in replica.configured_models
        )
