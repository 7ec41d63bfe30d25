"""All that keeps the fleet current beside the health checks, begun and ended together."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from router.config import RouterConfig
from router.discovery.discovery import Discovery
from router.discovery.file_watch import FileWatch
from router.discovery.roster import Roster
from router.errors import StateFileError
from router.reload import Reloader

SHARED_SECONDS = 1.0
"""Between two looks at the file of commands: how long another process takes to follow one."""

logger = logging.getLogger(__name__)


@asynccontextmanager
async def following(
    config: RouterConfig, roster: Roster, discovery: Discovery, reloader: Reloader
) -> AsyncGenerator[None]:
    """Follow sources, commands of other processes and changed files until the block ends.

    Sources have been asked, and what they name has been checked, before this yields.

    Raises:
        StateFileError: If the file of commands cannot be read.
    """
    await discovery.follow(config)
    await roster.recall()

    async def recall() -> None:
        try:
            await roster.recall()
        except StateFileError as error:
            logger.error("commands of other processes not followed problem=%s", error)

    async def reload() -> None:
        await reloader.reload_quietly("file")

    watches = (
        FileWatch(roster.stamp, recall, every_seconds=lambda: SHARED_SECONDS),
        FileWatch(
            reloader.stamp, reload, every_seconds=lambda: reloader.in_force.discovery.watch_seconds
        ),
    )
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await reloader.stop()
        await discovery.stop()
        await roster.stop()
