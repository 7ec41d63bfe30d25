"""Several generators as one."""

import asyncio

import pytest

from serving.merged import merged


async def numbers(start: int, count: int, closed: list[int]):
    try:
        for number in range(start, start + count):
            await asyncio.sleep(0)
            yield number
    finally:
        closed.append(start)


async def failing():
    yield 1
    raise ValueError("broken")


@pytest.mark.parametrize("starts", [[0], [0, 10, 20]])
async def test_every_item_comes_and_each_in_its_order(starts):
    """Items of one generator keep their order."""
    closed: list[int] = []
    items = [item async for item in merged([numbers(start, 5, closed) for start in starts])]
    for start in starts:
        assert [i for i in items if start <= i < start + 5] == list(range(start, start + 5))
    assert sorted(closed) == starts


async def test_a_failure_ends_all():
    """The error is raised and the others are closed."""
    closed: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        async for _ in merged([numbers(0, 10_000, closed), failing()]):
            pass
    assert closed == [0]


async def test_leaving_early_closes_all():
    """Nothing runs on behind a consumer that left."""
    closed: list[int] = []
    items = merged([numbers(0, 10_000, closed), numbers(20_000, 10_000, closed)])
    await anext(items)
    await items.aclose()
    assert sorted(closed) == [0, 20_000]
