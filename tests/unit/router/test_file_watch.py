"""Files looked at now and then."""

import pytest

from router.discovery.file_watch import IDLE_SECONDS, FileWatch


class Ended(Exception):
    """The script is over."""


async def test_each_difference_is_told_once_and_pauses_follow_the_setting() -> None:
    """What is there at the start is known; where the setting is off nothing is looked at."""
    stamps = iter(["a", "a", "b", "b", "c"])
    settings = iter([1.0, 1.0, None, 2.0, 2.0])
    told: list[str] = []
    slept: list[float] = []

    async def changed() -> None:
        told.append("changed")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def every_seconds() -> float | None:
        try:
            return next(settings)
        except StopIteration:
            raise Ended from None

    watch = FileWatch(lambda: next(stamps), changed, every_seconds=every_seconds, sleep=sleep)
    with pytest.raises(Ended):
        await watch.run()
    assert slept == [1.0, 1.0, IDLE_SECONDS, 2.0, 2.0]
    assert told == ["changed", "changed"]
