"""Work in threads."""

import asyncio
import threading

import pytest

from planner.threads import in_thread


async def test_a_cancelled_caller_waits_for_the_thread():
    """What the function uses is free when the caller has left, not before."""
    has_begun, may_end = threading.Event(), threading.Event()
    ended = []

    def work():
        has_begun.set()
        may_end.wait(10)
        ended.append(True)

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(has_begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended == [True]


async def test_results_and_failures_come_back():
    """As from a call."""
    assert await in_thread(int, "7") == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")
