"""A running router whose replicas come from names, plans and commands of other processes."""

import asyncio
import json
import logging
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from fakes import FakeReplica
from reloadable_router import reloadable_router

WHOLE = {"model": "tiny", "prompt": "x"}
REFRESH_SECONDS = 0.2


class Names:
    """A resolver whose answer a test changes."""

    def __init__(self, *addresses: str) -> None:
        self.found: set[str] = set(addresses)
        self.trouble: OSError | None = None
        self.looked_at: list[float] = []

    async def addresses(self, host: str) -> set[str]:
        self.looked_at.append(time.monotonic())
        if self.trouble is not None:
            raise self.trouble
        return set(self.found)


def dns(port: int, **changed: object) -> dict[str, object]:
    """Return the settings of one name; loopback has all of 127/8, so one port serves for many."""
    source = {"kind": "dns", "model": "tiny", "host": "pool.test", "port": port}
    source |= {"refresh_seconds": REFRESH_SECONDS, **changed}
    return {"models": [{"name": "tiny"}], "discovery": {"sources": [source]}}


def port_of(replica: FakeReplica) -> int:
    port = urlsplit(replica.url).port
    assert port is not None
    return port


async def test_a_name_that_gains_and_loses_addresses_is_followed(tmp_path: Path) -> None:
    """Newcomers serve within a refresh, leavers are gone within one; the last one too."""
    async with FakeReplica() as replica:
        names = Names("127.0.0.1")
        content = dns(port_of(replica))
        async with reloadable_router(tmp_path, resolver=names, content=content) as router:
            assert await router.urls() == [replica.url]
            assert (await router.cards())[0]["sources"] == [
                f"dns:pool.test:{port_of(replica)}/tiny"
            ]
            assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 200
            names.found = {"127.0.0.1", "127.0.0.2"}
            gone = f"http://127.0.0.2:{port_of(replica)}"
            await router.until_urls(replica.url, gone)  # it does not answer: nobody listens there
            names.found = {"127.0.0.1"}
            num_looks = len(names.looked_at)
            await router.until_urls(replica.url)
            assert len(names.looked_at) - num_looks <= 2
            assert gone not in (await router.client.get("/metrics")).text
            names.found = set()
            await router.until_urls()
            assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 503


async def test_an_address_that_left_is_gone_though_the_next_is_silent(tmp_path: Path) -> None:
    """The only healthy address leaves with the first answer without it, not after a long check."""
    async with FakeReplica() as replica:
        port = port_of(replica)
        names = Names("127.0.0.1")
        settings = {**dns(port), "health": {"timeout_seconds": 60}}
        with socket.create_server(("127.0.0.2", port)):  # takes connections, answers nothing
            async with reloadable_router(tmp_path, resolver=names, content=settings) as router:
                assert await router.urls() == [replica.url]
                names.found = {"127.0.0.2"}
                async with asyncio.timeout(5):
                    await router.until_urls(f"http://127.0.0.2:{port}")


async def test_replicas_behind_a_name_get_the_key_of_their_source(tmp_path: Path) -> None:
    """In place of the client's; another one after a reload."""
    key_path = tmp_path / "replica.key"
    async with FakeReplica() as replica:
        content = dns(port_of(replica), api_key_file=str(key_path))
        key_path.write_text("first")
        names = Names("127.0.0.1")
        async with reloadable_router(tmp_path, resolver=names, content=content) as router:
            for key in ("first", "second"):
                key_path.write_text(key)
                assert (await router.reload()).status_code == 200
                assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 200
                assert replica.requests[-1].headers["authorization"] == f"Bearer {key}"
            key_path.unlink()
            assert (await router.reload()).status_code == 400


async def test_a_resolver_that_fails_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The addresses found last serve on; the failures are counted, and logged once."""
    async with FakeReplica() as replica:
        names = Names("127.0.0.1")
        content = dns(port_of(replica))
        async with reloadable_router(tmp_path, resolver=names, content=content) as router:
            names.trouble = socket.gaierror(socket.EAI_AGAIN, "try again")
            counter = "motley_router_lookup_failures_total{"
            async with asyncio.timeout(30):
                while float(await router.sample(counter) or 0) < 3:
                    await asyncio.sleep(0.05)
            assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 200
        lines = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
        assert sum(line.startswith("lookup failed") for line in lines) == 1


async def test_a_reload_moves_replicas_between_file_and_name_without_a_gap(tmp_path: Path) -> None:
    """A replica that both name is never drained; one that only the old source named is."""
    async with FakeReplica() as replica:
        names = Names("127.0.0.1")
        async with reloadable_router(tmp_path, replica, resolver=names) as router:
            stream = asyncio.create_task(
                router.client.post("/v1/completions", json={**WHOLE, "stream": True})
            )
            router.write(**dns(port_of(replica)))
            assert (await router.reload()).status_code == 200
            assert await router.urls() == [replica.url]
            assert not (await router.cards())[0]["is_draining"]
            assert (await router.reload()).json()["changed"] == []
            router.write(replica)
            assert (await router.reload()).status_code == 200
            assert (await router.cards())[0]["sources"] == ["config"]
            num_looks = len(names.looked_at)
            await asyncio.sleep(2 * REFRESH_SECONDS)
            assert len(names.looked_at) == num_looks
            assert (await stream).content == replica.stream_bytes(with_usage=False)


async def test_commands_reach_other_processes_and_outlive_a_restart(tmp_path: Path) -> None:
    """What one router is told, another with the same file follows, and one that starts later."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    state = {"discovery": {"state_file": str(tmp_path / "replicas.json")}}
    async with FakeReplica() as first, FakeReplica() as second:
        async with (
            reloadable_router(tmp_path / "a", first, **state) as one,
            reloadable_router(tmp_path / "b", first, **state) as other,
        ):
            await one.client.post("/admin/replicas", json={"url": second.url, "model": "tiny"})
            await other.until_urls(first.url, second.url)
            await other.client.delete("/admin/replicas", params={"url": first.url})
            await one.until_urls(second.url)
        async with reloadable_router(tmp_path / "a", first, **state) as one:
            assert await one.urls() == [second.url]
            (tmp_path / "replicas.json").write_text("{")
            refused = await one.client.post(
                "/admin/replicas", json={"url": first.url, "model": "tiny"}
            )
            assert refused.status_code == 500
            assert "is malformed" in refused.json()["error"]["message"]
            assert await one.urls() == [second.url]


async def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    """With `watch_seconds` a new content of the file takes effect without any command."""
    async with FakeReplica() as first, FakeReplica() as second:
        watch = {"discovery": {"watch_seconds": 0.1}}
        async with reloadable_router(tmp_path, first, **watch) as router:
            router.path.write_text("{")
            counter = 'motley_router_reloads_total{outcome="refused"}'
            async with asyncio.timeout(30):
                while await router.sample(counter) != "1.0":
                    await asyncio.sleep(0.05)
            assert await router.urls() == [first.url]
            router.write(second)
            await router.until_urls(second.url)


async def test_a_new_plan_moves_the_shares(tmp_path: Path) -> None:
    """The planner's file is followed while the router runs: replicas and weights of the new plan."""
    async with FakeReplica() as first, FakeReplica() as second:
        plan = tmp_path / "plan.json"

        def write_plan(weights: dict[str, int]) -> None:
            rows = [{"model": "tiny", "offer": offer, "replicas": 1} for offer in weights]
            content = {"schema_version": 2, "kind": "fleet-plan", "replicas": rows}
            row = {"model": "tiny", "input_tokens_up_to": 512, "weights": weights}
            plan.write_text(json.dumps({**content, "weights": [row]}))

        write_plan({"L4": 1000, "H100": 0})
        addresses = {"tiny": {"L4": [first.url], "H100": [second.url]}}
        source = {"kind": "plan", "file": str(plan), "addresses": addresses}
        discovery = {"discovery": {"sources": [source], "watch_seconds": 0.1}}
        async with reloadable_router(tmp_path, **discovery) as router:
            for _ in range(3):
                await router.client.post("/v1/completions", json=WHOLE)
            assert (len(first.requests), len(second.requests)) == (3, 0)
            write_plan({"L4": 0, "H100": 1000})
            async with asyncio.timeout(30):
                while await router.sample('motley_router_reloads_total{outcome="done"}') != "1.0":
                    await asyncio.sleep(0.05)
            for _ in range(3):
                await router.client.post("/v1/completions", json=WHOLE)
            assert (len(first.requests), len(second.requests)) == (3, 3)
