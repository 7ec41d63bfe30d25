"""The file read again under running streams."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest
from fakes import FakeReplica
from keys_files import bearer, write_governance
from reloadable_router import reloadable_router

STREAM = {"model": "tiny", "prompt": "x", "stream": True}
WHOLE = {"model": "tiny", "prompt": "x"}


async def begun(replica: FakeReplica, num_requests: int = 1) -> None:
    """Wait until a replica has so many requests."""
    async with asyncio.timeout(30):
        while len(replica.requests) < num_requests:
            await asyncio.sleep(0.01)


async def test_streams_outlive_reloads_that_replace_every_replica(tmp_path: Path) -> None:
    """A stream on each of three fleets in a row arrives whole; each replica leaves with its last."""
    async with (
        FakeReplica(pause_seconds=0.2) as first,
        FakeReplica(pause_seconds=0.2) as second,
        FakeReplica(pause_seconds=0.2) as third,
        reloadable_router(tmp_path, first) as router,
    ):
        streams = []
        for now, after in ((first, second), (second, third), (third, first)):
            streams.append(asyncio.create_task(router.client.post("/v1/completions", json=STREAM)))
            await begun(now)
            router.write(after)
            answer = await router.reload()
            assert answer.json() == {"status": "ok", "changed": ["models"], "needs_restart": []}
            cards = {card["url"]: card for card in await router.cards()}
            assert cards[now.url]["is_draining"] or after is first
            assert not cards[after.url]["is_draining"]
        for stream, replica in zip(streams, (first, second, third), strict=True):
            assert (await stream).content == replica.stream_bytes(with_usage=False)
        await router.until_urls(first.url)
        assert await router.sample("motley_router_replica_healthy{replica") == "1.0"
        metrics = (await router.client.get("/metrics")).text
        assert second.url not in metrics
        assert third.url not in metrics
        assert await router.sample('motley_router_reloads_total{outcome="done"}') == "3.0"


async def test_no_request_fails_while_the_file_changes_back_and_forth(tmp_path: Path) -> None:
    """Eight clients ask without a pause through twenty reloads; every answer is 200."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        reloadable_router(tmp_path, first) as router,
    ):
        is_over = False

        async def ask() -> list[int]:
            statuses = []
            while not is_over:
                answer = await router.client.post("/v1/completions", json=WHOLE)
                statuses.append(answer.status_code)
            return statuses

        clients = [asyncio.create_task(ask()) for _ in range(8)]
        for number in range(20):
            router.write(*((first,), (second,), (second, first))[number % 3])
            assert (await router.reload()).status_code == 200
        is_over = True
        statuses = [status for client in clients for status in await client]
        assert statuses
        assert set(statuses) == {200}
        assert await router.sample("motley_router_outstanding_requests") == "0.0"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is malformed"),
        ('{"models": []}', "models"),
        (None, "no such file"),
        ('{"prot": 1}', "prot: unknown key"),
    ],
)
async def test_a_bad_file_changes_nothing(
    text: str | None, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told in one line of log, counted, and answered 400; requests go on as before."""
    async with FakeReplica() as replica, reloadable_router(tmp_path, replica) as router:
        if text is None:
            router.path.unlink()
        else:
            router.path.write_text(text)
        answer = await router.reload()
        assert answer.status_code == 400
        message = answer.json()["error"]["message"]
        assert problem in message
        assert "\n" not in message
        lines = [
            record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR
        ]
        assert [line.partition(" cause=")[0] for line in lines] == ["reload refused"]
        assert await router.sample('motley_router_reloads_total{outcome="refused"}') == "1.0"
        assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 200


async def test_a_key_file_that_is_gone_changes_nothing(tmp_path: Path) -> None:
    """What a file names is read before anything of it is put in force."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        reloadable_router(tmp_path, first) as router,
    ):
        router.write(second, health={"api_key_file": str(tmp_path / "none")})
        assert (await router.reload()).status_code == 400
        assert await router.urls() == [first.url]


async def test_settings_change_for_the_next_request(tmp_path: Path) -> None:
    """Models, limits, retries, health checks and timeouts are those of the file read last."""
    async with (
        FakeReplica() as first,
        FakeReplica(model="other") as second,
        reloadable_router(tmp_path, first) as router,
    ):
        router.write(
            second,
            max_body_bytes=100,
            timeouts={"first_byte_seconds": 0.2},
            health={"interval_seconds": 0.05, "failures_to_unhealthy": 1},
        )
        answer = await router.reload()
        changed = ["models", "health", "timeouts", "max_body_bytes"]
        assert answer.json()["changed"] == changed
        names = [each["id"] for each in (await router.client.get("/v1/models")).json()["data"]]
        assert names == ["other"]
        assert await status(router.client, model="tiny") == 404
        assert await status(router.client, model="other") == 200
        assert await status(router.client, model="other", prompt="x" * 100) == 413
        second.behaviour = "hang"
        assert await status(router.client, model="other") == 504


def spoil_usage(folder: Path) -> None:
    """Put something else in place of a usage file."""
    for each in folder.glob("usage.sqlite*"):
        if each.suffix != ".limits":
            each.unlink()
    (folder / "usage.sqlite").write_bytes(b"this is no database" * 100)


async def test_rules_of_governance_change_for_the_next_request(tmp_path: Path) -> None:
    """What is assumed of a request without a limit, and what holds while usage is unwritten."""
    keys = write_governance(tmp_path, {"k": {"name": "alice", "tokens_per_minute": 200}})
    async with (
        FakeReplica() as replica,
        reloadable_router(tmp_path, replica, governance=keys) as router,
    ):

        async def ask() -> int:
            answer = await router.client.post("/v1/completions", json=WHOLE, headers=bearer("k"))
            return answer.status_code

        assert await ask() == 429  # 256 tokens are assumed
        spoil_usage(tmp_path)
        router.write(replica, governance={**keys, "assumed_completion_tokens": 5})
        assert (await router.reload()).json()["needs_restart"] == []
        assert await ask() == 200
        async with asyncio.timeout(30):
            while await router.sample("motley_router_usage_write_failures_total") == "0.0":
                await asyncio.sleep(0.05)
        assert await ask() == 200
        refusing = {**keys, "assumed_completion_tokens": 5, "on_store_failure": "refuse"}
        router.write(replica, governance=refusing)
        assert (await router.reload()).json()["needs_restart"] == []
        assert await ask() == 503


async def status(client: httpx.AsyncClient, **fields: object) -> int:
    """Return the status of one completion."""
    return (await client.post("/v1/completions", json={"prompt": "x", **fields})).status_code


async def test_what_needs_a_restart_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another port is warned of at each reload until the process starts anew."""
    async with FakeReplica() as replica, reloadable_router(tmp_path, replica) as router:
        router.write(replica, port=9999, timeouts={"shutdown_seconds": 7})
        for changed in (["port", "timeouts"], []):
            answer = (await router.reload()).json()
            assert answer["changed"] == changed
            assert answer["needs_restart"] == ["port", "timeouts.shutdown_seconds"]
        assert "setting needs a restart name=port value=9999 stays=8000" in caplog.text
