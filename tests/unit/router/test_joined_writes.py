"""Writes of one turn of the loop leave together, in order, and none is lost at a close."""

import asyncio

from router.joined_writes import JoinedWrites


class NotingTransport(asyncio.Transport):
    """Notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[object] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls


async def test_one_turn_is_one_write() -> None:
    """What is written before the loop turns is one write; what comes later another."""
    inner = NotingTransport()
    transport = JoinedWrites(inner)
    transport.write(b"head")
    transport.writelines([b"bo", b"dy"])
    assert inner.calls == []
    await asyncio.sleep(0)
    transport.write(b"more")
    await asyncio.sleep(0)
    assert inner.calls == [b"headbody", b"more"]


async def test_a_close_sends_what_waits() -> None:
    """Nothing written before it is lost, and nothing is written after it."""
    inner = NotingTransport()
    transport = JoinedWrites(inner)
    transport.write(b"last")
    transport.close()
    transport.write(b"late")
    await asyncio.sleep(0)
    assert inner.calls == [b"last", "close"]


async def test_an_abort_drops_what_waits() -> None:
    """The connection ends at once."""
    inner = NotingTransport()
    transport = JoinedWrites(inner)
    transport.write(b"lost")
    transport.abort()
    await asyncio.sleep(0)
    assert inner.calls == ["abort"]
