"""How long a request may take, waiting included."""

import asyncio
from typing import TypeVar

from serving.errors import ServingError, SlowRequestError

Item = TypeVar("Item")


def too_slow(seconds: float) -> SlowRequestError:
    """Return what a request that took longer than `seconds` ends with."""
    return SlowRequestError(
        f"the request took longer than {seconds:g} seconds; ask for fewer tokens"
    )


def start_timer(
    stream: asyncio.Queue[Item | ServingError], seconds: float | None
) -> asyncio.TimerHandle | None:
    """Have the stream of a request that takes too long end with an error; None sets no limit.

    Costs nothing for each output. The caller cancels the timer when the request is over.
    """
    if seconds is None:
        return None
    return asyncio.get_running_loop().call_later(seconds, stream.put_nowait, too_slow(seconds))
