"""Long texts are tokenised in a thread of their own, so that other requests need not wait for them."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pydantic import BaseModel

LONG_CHARACTERS = 16_384
"""Texts from here on; fewer take 10 to 20 ms."""

Result = TypeVar("Result")


class LongTexts:
    """Runs work where its text's length belongs: at once, or one after another in a thread."""

    def __init__(self) -> None:
        """Begin no thread before the first long text."""
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="long-text")

    async def run(self, body: BaseModel, work: Callable[[], Result]) -> Result:
        """Return the result of `work`, which reads the texts of `body`; cancelled, it never begins."""
        if num_characters(body) < LONG_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def num_characters(value: object) -> int:
    """Return how much text a parsed body holds; a number counts as one character."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, BaseModel):
        return num_characters(vars(value))
    if isinstance(value, dict):
        return sum(map(num_characters, value.values()))
    if isinstance(value, (list, tuple)):
        return (
            len(value) if value and isinstance(value[0], int) else sum(map(num_characters, value))
        )
    return 1
