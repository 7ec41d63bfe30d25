"""A second attempt at a request whose first one is slow: whichever answers first is used.

Only short requests are hedged, by default none: J. Dean and L. A. Barroso, "The Tail at Scale" (2013),
asks a second server once the first has taken longer than the 95th percentile, which costs a twentieth
of the requests twice. The one that is not used is cancelled on its replica.
"""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from router.call import Call
from router.faults_config import HedgingConfig

BYTES_PER_TOKEN = 4

T = TypeVar("T")


def hedge_seconds(config: HedgingConfig | None, call: Call) -> float | None:
    """Return after how long a second attempt may begin, or None if there is to be none."""
    if config is None or len(call.body) > config.max_prompt_tokens * BYTES_PER_TOKEN:
        return None
    fields = call.query.fields
    most = fields.get("max_completion_tokens", fields.get("max_tokens"))
    if not isinstance(most, int) or most > config.max_tokens:
        return None
    return config.after_seconds


async def race(
    first: Coroutine[Any, Any, T],
    second: Callable[[], Coroutine[Any, Any, T] | None],
    *,
    after_seconds: float,
    is_good: Callable[[T], bool],
    discard: Callable[[T], None],
) -> T:
    """Return the first good result of two runs, of which the second begins only if it must.

    Args:
        first: Begins at once.
        second: Called after `after_seconds` if the first run has not ended; None: no second run.
        after_seconds: See there.
        is_good: Whether a result ends the race; without a good one any result is returned.
        discard: Gets each result that is not returned, the winner's too if the race is cancelled.

    Raises:
        Exception: The first run's, if no run has a result.
    """
    runs = [asyncio.create_task(first)]
    winner: asyncio.Task[T] | None = None
    try:
        await asyncio.wait(runs, timeout=after_seconds)
        if not runs[0].done() and (more := second()) is not None:
            runs.append(asyncio.create_task(more))
        winner = await _first_good(runs, is_good)
        return winner.result()
    finally:
        losers = [run for run in runs if run is not winner]
        for run in losers:
            run.add_done_callback(partial(_discard_result, discard))
            run.cancel()
        try:
            if losers:
                await asyncio.wait(losers)
        except asyncio.CancelledError:
            if winner is not None:
                _discard_result(discard, winner)
            raise


def _discard_result(discard: Callable[[T], None], run: asyncio.Task[T]) -> None:
    if not run.cancelled() and run.exception() is None:
        discard(run.result())


async def _first_good(runs: list[asyncio.Task[T]], is_good: Callable[[T], bool]) -> asyncio.Task[T]:
    left = set(runs)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        for run in done:
            if run.exception() is None and is_good(run.result()):
                return run
    return next((run for run in runs if run.exception() is None), runs[0])
