"""Names looked up again and again."""

import asyncio
import logging
import socket

import pytest

from router.discovery.config import DnsSource
from router.discovery.dns import DnsWatch, SystemResolver, members_at
from router.discovery.member import Member

SOURCE = DnsSource(
    kind="dns", model="m", host="pool.test", port=8000, offer="L4", refresh_seconds=10
)


class ScriptedResolver:
    """Answers each lookup with the next entry: addresses, an error, or nothing for ever."""

    def __init__(self, *answers: frozenset[str] | OSError | None) -> None:
        self._answers = list(answers)

    async def addresses(self, host: str) -> frozenset[str]:
        answer = self._answers.pop(0)
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, OSError):
            raise answer
        assert answer is not None
        return answer


class Ended(Exception):
    """The script is over."""


def watch_of(resolver: object, *, sleeps: list[float], most: int = 99, **changed: object):
    """Return a watch on a clock of its own, and what it found and failed at."""
    found: list[tuple[Member, ...]] = []
    failed: list[str] = []
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        if len(sleeps) == most:
            raise Ended
        sleeps.append(seconds)
        now += seconds

    watch = DnsWatch(
        SOURCE.model_copy(update=changed),
        resolver,
        found=lambda _, members: found.append(members),
        failed=failed.append,
        sleep=sleep,
        monotonic=lambda: now,
    )
    return watch, found, failed


def test_addresses_become_urls_in_a_stable_order() -> None:
    """IPv4 and IPv6 addresses are replicas with the source's port, model and offer."""
    members = members_at(SOURCE, {"10.0.0.2", "fd00::1", "10.0.0.1"})
    urls = ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000"]
    assert [member.replica.url for member in members] == urls
    assert {(m.model, m.replica.offer, m.source) for m in members} == {
        ("m", "L4", "dns:pool.test:8000/m")
    }


async def test_each_answer_is_told_and_a_failure_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Two failures in a row are counted twice and logged once; the next answer is logged too."""
    caplog.set_level(logging.INFO)
    first, second = frozenset({"10.0.0.1"}), frozenset({"10.0.0.2"})
    trouble = socket.gaierror(socket.EAI_AGAIN, "temporary failure")
    resolver = ScriptedResolver(first, trouble, trouble, second, frozenset())
    watch, found, failed = watch_of(resolver, sleeps=[], most=5)
    with pytest.raises(Ended):
        await watch.run()
    assert found == [members_at(SOURCE, first), members_at(SOURCE, second), ()]
    assert failed == [SOURCE.name] * 2
    lines = [record.getMessage().partition(" source=")[0] for record in caplog.records]
    assert lines == [
        "lookup failed, its replicas stay",
        "lookups succeed again",
        "source has no replicas",
    ]


async def test_a_lookup_that_hangs_is_a_failure() -> None:
    """Nothing is found within the timeout, and nothing is changed."""
    watch, found, failed = watch_of(ScriptedResolver(None), sleeps=[], timeout_seconds=0.01)
    assert await watch.look() is None
    assert (found, len(failed)) == ([], 1)


async def test_a_name_that_cannot_be_asked_for_is_a_failure() -> None:
    """What the resolver refuses to encode is counted as every lookup without an answer."""
    watch, found, failed = watch_of(SystemResolver(), sleeps=[], host="a..b")
    assert await watch.look() is None
    assert (found, len(failed)) == ([], 1)


async def test_lookups_begin_at_a_fixed_pace_however_long_they_take() -> None:
    """Each begins a refresh after the one before began; after a longer one the next begins at once."""
    now = 0.0
    begun: list[float] = []
    durations = [0.0, 4.0, 25.0, 0.0, 0.0]

    class SlowResolver:
        async def addresses(self, host: str) -> frozenset[str]:
            nonlocal now
            begun.append(now)
            now += durations[len(begun) - 1]
            return frozenset()

    async def sleep(seconds: float) -> None:
        nonlocal now
        if len(begun) == len(durations):
            raise Ended
        now += seconds

    watch = DnsWatch(
        SOURCE,
        SlowResolver(),
        found=lambda *_: None,
        failed=lambda _: None,
        sleep=sleep,
        monotonic=lambda: now,
    )
    with pytest.raises(Ended):
        await watch.run()
    assert begun == [10, 20, 30, 55, 65]


async def test_the_systems_resolver_knows_addresses_and_the_hosts_file() -> None:
    """An address is itself; a name of the hosts file has the addresses that stand there."""
    resolver = SystemResolver()
    assert await resolver.addresses("127.0.0.1") == {"127.0.0.1"}
    local = await asyncio.gather(*[resolver.addresses("localhost") for _ in range(3)])
    assert local[0]
    assert local[0] <= {"127.0.0.1", "::1"}
    assert local[1:] == local[:2]
