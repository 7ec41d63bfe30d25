"""Several asynchronous generators as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

Item = TypeVar("Item")


async def merged(generators: Sequence[AsyncGenerator[Item]]) -> AsyncGenerator[Item]:
    """Yield the items of all as they come; one that fails, or an early end, closes all."""
    if len(generators) == 1:
        async with aclosing(generators[0]) as items:
            async for item in items:
                yield item
        return
    queue: asyncio.Queue[Item | None] = asyncio.Queue()

    async def feed(generator: AsyncGenerator[Item]) -> None:
        try:
            async with aclosing(generator) as items:
                async for item in items:
                    queue.put_nowait(item)
        finally:
            queue.put_nowait(None)

    tasks = [asyncio.create_task(feed(generator)) for generator in generators]
    try:
        num_open = len(tasks)
        while num_open:
            found = await queue.get()
            if found is not None:
                yield found
                continue
            num_open -= 1
            for task in tasks:
                if task.done() and task.exception() is not None:
                    task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
