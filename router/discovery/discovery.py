"""The sources of a configuration at work: begun, followed, ended, as the configuration changes."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from router.config import RouterConfig
from router.discovery.config import DnsSource
from router.discovery.dns import DnsWatch, Resolver
from router.discovery.member import CONFIG, Member, configured_members
from router.discovery.roster import Roster

logger = logging.getLogger(__name__)


class Discovery:
    """Keeps the roster told of what the configuration and its sources name."""

    def __init__(
        self, roster: Roster, resolver: Resolver, *, failed: Callable[[str], None]
    ) -> None:
        """Follow nothing yet; `failed` gets the name of a source that did not answer, each time."""
        self._roster = roster
        self._resolver = resolver
        self._failed = failed
        self._watches: dict[str, DnsWatch] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def follow(self, config: RouterConfig) -> None:
        """Have the fleet follow `config` from now on; returns when it does.

        New sources are looked up first, and all changes are made at once, so that a replica that
        moves from one source to another stays throughout.
        """
        sources = [each for each in config.discovery.sources if isinstance(each, DnsSource)]
        watches = {source.name: self._watch(source) for source in sources}
        new = [watch for name, watch in watches.items() if self._watches.get(name) is not watch]
        looks = await asyncio.gather(*[watch.look() for watch in new])
        ended = self._watches.keys() - watches.keys()
        changes: dict[str, Sequence[Member]] = dict.fromkeys(ended, ())
        changes[CONFIG] = configured_members(config.models)
        for watch, found in zip(new, looks, strict=True):
            if found is not None:
                changes[watch.source.name] = found
        await self._end([*ended, *[watch.source.name for watch in new]])
        self._watches = watches
        for watch in new:
            self._begin(watch)
        await self._roster.state(changes, base_models=[model.name for model in config.models])

    async def stop(self) -> None:
        """End all that was begun."""
        await self._end(list(self._tasks))

    def _watch(self, source: DnsSource) -> DnsWatch:
        """Return the watch of a source, the one there is where nothing of it has changed."""
        known = self._watches.get(source.name)
        if known is not None and known.source == source:
            return known
        return DnsWatch(source, self._resolver, found=self._found, failed=self._failed)

    def _found(self, name: str, members: Sequence[Member]) -> None:
        if self._roster.named(name) != tuple(members):
            self._roster.take({name: members}, are_leavers_gone=True)

    def _begin(self, watch: DnsWatch) -> None:
        task = asyncio.create_task(watch.run())
        task.add_done_callback(_report_crash)
        self._tasks[watch.source.name] = task

    async def _end(self, names: Iterable[str]) -> None:
        """Cancel the watches of some names, and return when they have ended."""
        found = [self._tasks.pop(name, None) for name in names]
        tasks = [task for task in found if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report_crash(task: asyncio.Task[None]) -> None:
    # Only a bug ends a watch; without this line the source would silently stand still.
    if not task.cancelled() and task.exception() is not None:
        logger.critical("lookups of a source ended", exc_info=task.exception())
