"""Noticing that a file has changed, by looking at it now and then.

Looking costs microseconds and sees what event interfaces miss: a ConfigMap's swapped link, a file on
a network share.
"""

import asyncio
from collections.abc import Awaitable, Callable


class FileWatch:
    """Tells of each new content of a file or of several."""

    def __init__(
        self,
        stamp: Callable[[], object],
        changed: Callable[[], Awaitable[None]],
        *,
        every_seconds: Callable[[], float | None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare; what stands there now is known already.

        Args:
            stamp: Returns a value that differs when the content does.
            changed: Called and waited for after each difference; handles its own failures.
            every_seconds: Between two looks; None: not at all for the moment.
            sleep: Waits.
        """
        self._stamp = stamp
        self._changed = changed
        self._every_seconds = every_seconds
        self._sleep = sleep
        self._known = stamp()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            seconds = self._every_seconds()
            await self._sleep(IDLE_SECONDS if seconds is None else seconds)
            if seconds is not None:
                await self.look()

    async def look(self) -> None:
        """Look once."""
        found = self._stamp()
        if found != self._known:
            self._known = found
            await self._changed()


IDLE_SECONDS = 1.0
"""Between two questions whether to look at all."""
