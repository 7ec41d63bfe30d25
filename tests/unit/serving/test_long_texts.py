"""Long texts wait for one another; short ones wait for nobody."""

import asyncio
import threading

import pytest
from pydantic import BaseModel

from serving.long_texts import LONG_CHARACTERS, LongTexts, num_characters


class Part(BaseModel):
    text: str


class Body(BaseModel):
    prompt: str | list[int] | list[str] | list[Part] | dict[str, list[str]] | None = None
    stream: bool | None = None


LONG = Body(prompt="a" * LONG_CHARACTERS)
BLOCKED_SECONDS = 30


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("abc", 3),
        ([1, 2, 300], 3),
        (["ab", "c"], 3),
        ([Part(text="abc")], 3),
        ({"a": ["abc"]}, 3),
        ([], 0),
        (None, 1),
    ],
)
def test_the_text_of_a_body_is_counted_however_it_is_nested(prompt, expected):
    """Strings by characters, token ids one each; the field beside counts as one."""
    assert num_characters(Body(prompt=prompt)) == expected + 1


async def test_a_short_text_is_read_while_a_long_one_is():
    """On the caller's thread; long ones in another, one after another and in order."""
    texts, go_on, order = LongTexts(), threading.Event(), []

    def work(name: str) -> int:
        assert go_on.wait(BLOCKED_SECONDS)
        order.append(name)
        return threading.get_ident()

    running = [asyncio.create_task(texts.run(LONG, lambda n=name: work(n))) for name in "ab"]
    await asyncio.sleep(0)
    assert await texts.run(Body(prompt="short"), threading.get_ident) == threading.get_ident()
    assert order == []
    go_on.set()
    threads = await asyncio.gather(*running)
    assert order == ["a", "b"]
    assert set(threads) != {threading.get_ident()}
    assert len(set(threads)) == 1


async def test_a_long_text_nobody_waits_for_is_not_read():
    """Cancelled behind another, its work never begins."""
    texts, go_on, order = LongTexts(), threading.Event(), []
    first = asyncio.create_task(texts.run(LONG, lambda: go_on.wait(BLOCKED_SECONDS)))
    second = asyncio.create_task(texts.run(LONG, lambda: order.append("read")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second  # only then does the thread's own list know
    go_on.set()
    assert await first
    assert await texts.run(LONG, lambda: list(order)) == []


async def test_what_the_work_raises_is_raised():
    """The caller sees the error itself."""
    with pytest.raises(ZeroDivisionError):
        await LongTexts().run(LONG, lambda: 1 // 0)
