"""How long a request may take, waiting included."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TypeVar

from serving.errors import ServingError, SlowRequestError

Item = TypeVar("Item")


def too_slow(seconds: float) -> SlowRequestError:
    """Return what a request that took longer than `seconds` ends with."""
    return SlowRequestError(
        f"the request took longer than {seconds:g} seconds; ask for fewer tokens"
    )


@asynccontextmanager
async def time_limit(seconds: float | None) -> AsyncGenerator[None]:
    """Limit what happens inside; None sets no limit.

    Raises:
        SlowRequestError: If it takes longer.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        assert seconds is not None, "nothing else sets a limit"
        raise too_slow(seconds) from None


def start_timer(
    stream: asyncio.Queue[Item | ServingError], seconds: float | None
) -> asyncio.TimerHandle | None:
    """Have the stream of a request that takes too long end with an error; None sets no limit.

    Costs nothing for each output. The caller cancels the timer when the request is over.
    """
    if seconds is None:
        return None
    return asyncio.get_running_loop().call_later(seconds, stream.put_nowait, too_slow(seconds))
