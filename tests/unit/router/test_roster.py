"""Sources of replicas made one fleet."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import HealthConfig, ModelConfig, ReplicaConfig
from router.discovery.amendments import MemoryStore
from router.discovery.member import ADMIN, Member, configured_members
from router.discovery.roster import Roster
from router.errors import ReplicaFailedError
from router.faults_config import BreakerConfig
from router.fleet import Fleet
from router.guards import Guards
from router.health import HealthMonitor
from router.replica_keys import ReplicaKeys

MODEL = ModelConfig(name="m", replicas=(ReplicaConfig(url="http://a"),))


class GatedClient:
    """Answers checks of replicas that are up; those of a gated one when the gate opens."""

    def __init__(self) -> None:
        self.down: set[str] = set()
        self.gated: set[str] = set()
        self.gate = asyncio.Event()

    async def get_json(self, url: str, path: str, *, timeout_seconds: float) -> tuple[int, object]:
        await asyncio.sleep(0)
        if url in self.gated:
            await self.gate.wait()
        if url in self.down:
            raise ReplicaFailedError(url, "failed: refused")
        return 200, {"data": [{"id": "m"}]}


@asynccontextmanager
async def rostered(client: GatedClient) -> AsyncIterator[tuple[Fleet, Roster]]:
    """Yield a fleet of `http://a` with its checks running."""
    fleet = Fleet([MODEL])
    monitor = HealthMonitor(
        fleet, client, HealthConfig(interval_seconds=3600), Guards(BreakerConfig())
    )
    roster = Roster(fleet, monitor, configured_members([MODEL]), MemoryStore(), ReplicaKeys())
    async with monitor.running():
        yield fleet, roster
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def named(*urls: str, source: str = "dns", model: str = "m") -> list[Member]:
    return [Member(model, ReplicaConfig(url=url), source) for url in urls]


def urls_of(fleet: Fleet) -> list[str]:
    return [replica.url for replica in fleet.replicas]


def serving(fleet: Fleet) -> list[str]:
    return [candidate.url for candidate in fleet.candidates("m", excluding=())]


async def test_sources_add_up_and_each_speaks_for_itself() -> None:
    """What one source no longer names leaves, unless another names it."""
    async with rostered(GatedClient()) as (fleet, roster):
        await roster.state({"dns": named("http://a", "http://b")})
        assert serving(fleet) == ["http://a", "http://b"]
        assert fleet.replica("http://a").sources == ("config", "dns")
        await roster.state({"dns": ()})
        assert urls_of(fleet) == ["http://a"]


async def test_a_replacement_leaves_no_gap() -> None:
    """The last healthy replica stays until the one in its place has been checked."""
    client = GatedClient()
    client.gated = {"http://b"}
    async with rostered(client) as (fleet, roster):
        change = asyncio.create_task(roster.state({"config": named("http://b")}))
        for _ in range(20):
            await asyncio.sleep(0)
        assert serving(fleet) == ["http://a"]
        client.gate.set()
        await change
        assert serving(fleet) == urls_of(fleet) == ["http://b"]


async def test_who_is_gone_leaves_before_the_one_in_its_place_is_ready() -> None:
    """Where a source says so even the last healthy replica goes at once."""
    client = GatedClient()
    async with rostered(client) as (fleet, roster):
        await roster.state({"config": (), "dns": named("http://b", "http://c")})
        client.gated = {"http://d", "http://e"}
        slow = asyncio.create_task(roster.state({"config": named("http://d", source="config")}))
        change = roster.take({"dns": named("http://e")}, are_leavers_gone=True)
        assert serving(fleet) == []
        await asyncio.sleep(0)
        assert urls_of(fleet) == ["http://e", "http://d"]
        client.gate.set()
        await asyncio.gather(slow, change)
        assert serving(fleet) == ["http://e", "http://d"]


async def test_who_is_spared_leaves_before_a_newcomer_has_answered() -> None:
    """With a healthy replica beside it, one that is gone is gone at once."""
    client = GatedClient()
    client.gated = {"http://c"}
    async with rostered(client) as (fleet, roster):
        await roster.state({"dns": named("http://b")})
        change = asyncio.create_task(roster.state({"dns": named("http://c")}))
        for _ in range(20):
            await asyncio.sleep(0)
        assert urls_of(fleet) == ["http://a", "http://c"]
        assert serving(fleet) == ["http://a"]
        client.gate.set()
        await change


async def test_a_cancelled_command_leaves_the_fleet_as_its_sources_say() -> None:
    """Who asked may go while a newcomer is being checked: the command is carried out all the same."""
    client = GatedClient()
    client.gated = {"http://b"}
    async with rostered(client) as (fleet, roster):
        change = asyncio.create_task(roster.state({"config": named("http://b")}))
        for _ in range(20):
            await asyncio.sleep(0)
        change.cancel()
        with pytest.raises(asyncio.CancelledError):
            await change
        assert serving(fleet) == ["http://a"]
        client.gate.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert serving(fleet) == urls_of(fleet) == ["http://b"]


async def test_a_dead_newcomer_gets_no_requests() -> None:
    """A replica that fails its first check is out of service until a check succeeds."""
    client = GatedClient()
    client.down = {"http://b"}
    async with rostered(client) as (fleet, roster):
        await roster.state({"dns": named("http://b")})
        assert (urls_of(fleet), serving(fleet)) == (["http://a", "http://b"], ["http://a"])


async def test_sent_away_stays_away_until_it_is_added_again() -> None:
    """Neither the file nor another statement of a source brings it back; a command does."""
    async with rostered(GatedClient()) as (fleet, roster):
        await roster.send_away("http://a")
        await roster.state({"config": named("http://a", "http://b", source="config")})
        assert serving(fleet) == ["http://b"]
        assert roster.withheld == {"http://a"}
        await roster.add(Member("m", ReplicaConfig(url="http://a"), ADMIN))
        assert serving(fleet) == ["http://b", "http://a"]
        await roster.send_away("http://b")
        await roster.send_away("http://a")
        assert (urls_of(fleet), roster.withheld) == ([], {"http://a", "http://b"})


async def test_members_of_models_the_file_lacks_serve_nothing_until_it_has_them() -> None:
    """A replica added by command outlives reloads that take its model away and back."""
    async with rostered(GatedClient()) as (fleet, roster):
        await roster.add(*named("http://b", source=ADMIN))
        await roster.state({"config": named("http://a", model="n")}, base_models=["n"])
        assert urls_of(fleet) == ["http://a"]
        await roster.state({"config": named("http://a")}, base_models=["m"])
        assert serving(fleet) == ["http://a", "http://b"]


URLS = st.sampled_from([f"http://h{number}" for number in range(4)])
STEPS = st.one_of(
    st.tuples(st.just("state"), st.sampled_from(["config", "dns"]), st.sets(URLS)),
    st.tuples(st.just("add"), URLS, st.none()),
    st.tuples(st.just("send_away"), URLS, st.none()),
)


@given(st.lists(STEPS, max_size=12), st.booleans())
def test_any_sequence_of_changes_ends_in_what_was_said(steps: list, at_once: bool) -> None:
    """Against sets: the fleet is what sources and commands say, however their changes overlap."""

    async def run() -> None:
        async with rostered(GatedClient()) as (fleet, roster):
            said: dict[str, Collection[str]] = {"config": {"http://a"}, "dns": set()}
            added: set[str] = set()
            withheld: set[str] = set()
            tasks = []
            for kind, first, second in steps:
                if kind == "state":
                    tasks.append(roster.state({first: named(*sorted(second))}))
                    said[first] = second
                elif kind == "add":
                    tasks.append(roster.add(*named(first, source=ADMIN)))
                    added, withheld = added | {first}, withheld - {first}
                else:
                    tasks.append(roster.send_away(first))
                    elsewhere = first in said["config"] or first in said["dns"]
                    added = added - {first}
                    withheld = withheld | {first} if elsewhere else withheld - {first}
                if not at_once:
                    await tasks.pop()
            await asyncio.gather(*tasks)
            wanted = (set(said["config"]) | set(said["dns"]) | added) - withheld
            assert set(urls_of(fleet)) == set(serving(fleet)) == wanted

    asyncio.run(run())
