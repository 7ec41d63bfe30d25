"""What keeping an engine running takes, whatever runs it: back-off, and the end of its task."""

import asyncio
import logging
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each restart of an engine that keeps ending."""

    first_seconds: float
    most_seconds: float
    steady_seconds: float
    """An engine that served this long begins anew with the first wait."""

    def seconds(self, num_failures: int) -> float:
        """Return the wait after the so-manieth end in a row, from 1: doubled each time."""
        return min(self.most_seconds, self.first_seconds * 2.0 ** min(num_failures - 1, 30))


def report_crash(supervision: asyncio.Task[None]) -> None:
    """Log what ended the task that keeps an engine running, if anything but its cancellation did.

    Only a bug does; without this line nobody would learn why the engine stays away.
    """
    if not supervision.cancelled() and supervision.exception() is not None:
        logger.critical("supervision of the engine ended", exc_info=supervision.exception())
