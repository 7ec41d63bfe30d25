"""A request's block ends when its client leaves, and only then."""

import asyncio

import pytest

from router.client_watch import Departure, cancelled_when_client_leaves
from router.errors import ClientGoneError, StoppingError


def scope_of(departure: Departure) -> dict[str, object]:
    scope: dict[str, object] = {}
    departure.put_into(scope)
    return scope


async def test_a_leaving_client_ends_the_block() -> None:
    departure = Departure()
    asyncio.get_running_loop().call_later(0.01, departure.leave)
    with pytest.raises(ClientGoneError):
        async with cancelled_when_client_leaves(scope_of(departure)):
            await asyncio.sleep(10)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_client_that_left_before_ends_it_at_once() -> None:
    departure = Departure()
    departure.leave()
    with pytest.raises(ClientGoneError):
        async with cancelled_when_client_leaves(scope_of(departure)):
            await asyncio.sleep(10)


async def test_nothing_is_cancelled_after_the_block() -> None:
    departure = Departure()
    async with cancelled_when_client_leaves(scope_of(departure)):
        await asyncio.sleep(0)
    departure.leave()
    await asyncio.sleep(0)  # a cancellation would arrive here


async def test_a_cancelled_server_says_that_it_stops() -> None:
    async def request() -> None:
        async with cancelled_when_client_leaves(scope_of(Departure())):
            await asyncio.sleep(10)

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(StoppingError):
        await task


async def test_a_server_that_tells_no_departures_runs_the_block_to_its_end() -> None:
    async with cancelled_when_client_leaves({}):
        await asyncio.sleep(0)
