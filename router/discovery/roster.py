"""The one place where the sources of replicas meet, and what they say together becomes the fleet.

Each source states its whole list whenever that changes. A newcomer is checked before it gets
requests. What no source names any more is drained: at once where its source says that it is gone, as
DNS does, or where each of its models keeps a healthy replica; otherwise after the newcomers have been
checked, so that a replacement leaves no gap.
"""

import asyncio
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence

from router.config import ReplicaConfig
from router.discovery.amendments import Amendments, AmendmentStore, Change
from router.discovery.member import CONFIG, Member
from router.fleet import Fleet
from router.health import HealthMonitor
from router.replica import Replica
from router.replica_keys import ReplicaKeys

logger = logging.getLogger(__name__)


class Roster:
    """Who belongs to the fleet, by source."""

    def __init__(
        self,
        fleet: Fleet,
        monitor: HealthMonitor,
        members: Sequence[Member],
        store: AmendmentStore,
        keys: ReplicaKeys,
    ) -> None:
        """Begin with the `members` of the file, which are in the fleet already."""
        self._fleet = fleet
        self._monitor = monitor
        self._by_source: dict[str, tuple[Member, ...]] = {CONFIG: tuple(members)}
        self._store = store
        self._keys = keys
        fleet.when_removed(lambda replica: keys.forget(replica.url))
        self._amendments = Amendments()
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def withheld(self) -> frozenset[str]:
        """Addresses that were sent away by a command, whoever names them."""
        return self._amendments.withheld

    @property
    def added(self) -> tuple[ReplicaConfig, ...]:
        """Replicas of the fleet that commands have added."""
        added = [member.replica for member in self._amendments.added]
        return tuple(each for each in added if self._fleet.find(each.url) is not None)

    def named(self, source: str) -> tuple[Member, ...]:
        """Return what a source named last."""
        return self._by_source.get(source, ())

    def take(
        self,
        changes: Mapping[str, Sequence[Member]],
        *,
        base_models: Sequence[str] | None = None,
        are_leavers_gone: bool = False,
    ) -> asyncio.Task[None]:
        """Take what sources say now; the task ends when the fleet follows it, checks included.

        Args:
            changes: Source to all that it names; nothing ends the source.
            base_models: The models of the file, where they have changed. Members of others are kept
                in mind, but serve nothing.
            are_leavers_gone: Whether what the sources name no more cannot be asked any more, not even
                until newcomers have been checked.
        """
        gone: set[str] = set()
        for source, members in changes.items():
            if are_leavers_gone:
                gone.update(member.replica.url for member in self.named(source))
            self._by_source[source] = tuple(members)
        if base_models is not None:
            self._fleet.base_models = tuple(base_models)
        return self._follow(gone)

    async def state(
        self,
        changes: Mapping[str, Sequence[Member]],
        *,
        base_models: Sequence[str] | None = None,
    ) -> None:
        """Take what sources say now, and return when the fleet follows it."""
        await asyncio.shield(self.take(changes, base_models=base_models))

    async def add(self, member: Member) -> None:
        """Add a member by command, or take it back if its address had been sent away.

        Raises:
            DocumentError: If it has a file of its key and that cannot be used; nothing is changed.
        """
        if member.replica.api_key_file is not None:
            await asyncio.to_thread(self._keys.read, member.replica.api_key_file)
        await self._amend(lambda now: now.adding(member))

    async def send_away(self, url: str) -> None:
        """Drain a replica by command, whoever named it."""
        named = itertools.chain.from_iterable(self._by_source.values())
        is_named = any(member.replica.url == url for member in named)
        await self._amend(lambda now: now.without(url, is_named_elsewhere=is_named))

    async def recall(self) -> None:
        """Take what the store keeps: at the start, and when another process has changed it."""
        await self._amend(lambda now: now)

    def stamp(self) -> object:
        """Return a value that changes when the store may have been changed by another process."""
        return self._store.stamp()

    async def stop(self) -> None:
        """End the checks of newcomers that still run."""
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _amend(self, change: Change) -> None:
        async with self._lock:  # the store may wait for other processes
            self._amendments = await asyncio.to_thread(self._store.change, change)
            task = self._follow()
        await asyncio.shield(task)

    def _follow(self, gone: Collection[str] = ()) -> asyncio.Task[None]:
        wanted = self._wanted()
        self._keys.give(member.replica for member in wanted)
        urls = {member.replica.url for member in wanted}
        newcomers = self._fleet.admit(wanted)
        for replica in newcomers:
            logger.info("replica added url=%s sources=%s", replica.url, ",".join(replica.sources))
        leavers = [each.url for each in self._fleet.replicas if each.url not in urls]
        self._fleet.drain(url for url in leavers if url in gone or self._is_spared(url, urls))
        task = asyncio.create_task(self._replace(newcomers, leavers))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _replace(self, newcomers: Sequence[Replica], leavers: Sequence[str]) -> None:
        """Check who has come; then those leave who were needed until now."""
        try:
            await self._monitor.welcome(newcomers)
        finally:
            staying = {member.replica.url for member in self._wanted()}
            self._fleet.drain(url for url in leavers if url not in staying)

    def _wanted(self) -> tuple[Member, ...]:
        """Return all that is named, the file's first, without what is withheld or cannot serve."""
        known = set(self._fleet.base_models)
        sources = sorted(self._by_source, key=lambda source: (source != CONFIG, source))
        named = itertools.chain(
            *[self._by_source[source] for source in sources], self._amendments.added
        )
        withheld = self._amendments.withheld
        return tuple(
            member
            for member in named
            if member.model in known
            and member.replica.url not in withheld
            and self._keys.can_serve(member.replica)
        )

    def _is_spared(self, url: str, staying: Collection[str]) -> bool:
        """Return whether each model of a replica keeps a healthy one among those `staying`."""
        replica = self._fleet.find(url)
        return replica is not None and all(
            any(each.is_healthy and each.url in staying for each in self._fleet.configured(model))
            for model in replica.configured_models
        )
