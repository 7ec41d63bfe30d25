"""Work that would stall an event loop, in a thread that its caller outlives."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Given, Result], *args: Given.args, **kwargs: Given.kwargs
) -> Result:
    """Return what a function returns in a thread.

    `asyncio.to_thread` leaves the thread behind when its caller is cancelled, or never starts it.
    This one is cancelled once the function has ended, so that what it uses may be closed then.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise
