"""Bodies on disk."""

import asyncio
import os
import threading

import pytest

from router import spool


async def test_a_cancelled_upload_closes_no_file_that_is_written(monkeypatch):
    """The descriptor may be another file's once it is closed: the write ends before."""
    has_begun, may_end = threading.Event(), threading.Event()
    written = []

    def slow_write(descriptor, piece):
        has_begun.set()
        may_end.wait(10)
        written.append(os.write(descriptor, piece))

    async def receive():
        return {"type": "http.request", "body": b"abc", "more_body": True}

    async def take():
        async with spool.spooled({"headers": []}, receive, max_body_bytes=9, folder=None):
            pass

    monkeypatch.setattr(spool, "_write", slow_write)
    task = asyncio.create_task(take())
    await asyncio.to_thread(has_begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert written == [3]
