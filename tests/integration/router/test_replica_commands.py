"""`/admin/replicas` of a running router."""

import asyncio
from pathlib import Path

import pytest
from fakes import FakeReplica
from reloadable_router import ReloadableRouter, reloadable_router

STREAM = {"model": "tiny", "prompt": "x", "stream": True}
WHOLE = {"model": "tiny", "prompt": "x"}


async def test_a_replica_is_added_serves_and_outlives_a_reload(tmp_path: Path) -> None:
    """The answer comes when it has been checked; the list says who named whom."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        reloadable_router(tmp_path, first) as router,
    ):
        added = await router.client.post(
            "/admin/replicas", json={"url": second.url + "/", "model": "tiny", "offer": "L4"}
        )
        assert added.json() == {
            "url": second.url,
            "models": ["tiny"],
            "offers": {"tiny": "L4"},
            "sources": ["admin"],
            "is_healthy": True,
            "is_draining": False,
            "num_outstanding": 0,
            "lists": ["tiny"],
        }
        await router.reload()
        assert await router.urls() == [first.url, second.url]
        for _ in range(4):
            await router.client.post("/v1/completions", json=WHOLE)
        assert len(first.requests) == len(second.requests) == 2


async def test_a_drained_replica_finishes_its_stream_and_leaves(tmp_path: Path) -> None:
    """No request goes there any more, the one that runs ends whole, and no reload brings it back."""
    async with (
        FakeReplica(pause_seconds=0.2) as first,
        FakeReplica() as second,
        reloadable_router(tmp_path, first) as router,
    ):
        stream = asyncio.create_task(router.client.post("/v1/completions", json=STREAM))
        while not first.requests:
            await asyncio.sleep(0.01)
        await router.client.post("/admin/replicas", json={"url": second.url, "model": "tiny"})
        gone = await router.client.delete("/admin/replicas", params={"url": first.url})
        assert (gone.status_code, gone.json()["num_outstanding"]) == (202, 1)
        for _ in range(3):
            assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 200
        assert len(first.requests) == 1
        assert (await stream).content == first.stream_bytes(with_usage=False)
        await router.until_urls(second.url)
        await router.reload()
        assert await router.urls() == [second.url]
        listing = (await router.client.get("/admin/replicas")).json()
        assert listing["withheld"] == [first.url]
        await router.client.post("/admin/replicas", json={"url": first.url, "model": "tiny"})
        await router.until_urls(first.url, second.url)


async def test_an_idle_replica_is_removed_at_once_and_its_model_is_unavailable(
    tmp_path: Path,
) -> None:
    """Without any replica the model of the file is answered 503, not 404."""
    async with FakeReplica() as replica, reloadable_router(tmp_path, replica) as router:
        gone = await router.client.delete("/admin/replicas", params={"url": replica.url})
        assert gone.json() == {"url": replica.url, "status": "removed", "num_outstanding": 0}
        assert (await router.client.post("/v1/completions", json=WHOLE)).status_code == 503
        assert (await router.client.get("/health")).status_code == 503
        again = await router.client.delete("/admin/replicas", params={"url": replica.url})
        assert again.status_code == 404


async def test_a_replica_added_with_a_key_gets_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From its first check on, after a reload the key that its file holds then, and after a restart.

    Where the file is gone at a restart it is left out until it can be read.
    """
    key_path = tmp_path / "replica.key"
    key_path.write_text("first")
    state = {"discovery": {"state_file": str(tmp_path / "replicas.json")}}
    async with FakeReplica() as replica:
        settings = {**state, "models": [{"name": "tiny"}]}
        command = {"url": replica.url, "model": "tiny", "api_key_file": str(key_path)}

        async def seen(router: ReloadableRouter) -> str | None:
            await router.client.post("/v1/completions", json=WHOLE)
            return replica.requests[-1].headers.get("authorization")

        async with reloadable_router(tmp_path, **settings) as router:
            added = await router.client.post("/admin/replicas", json=command)
            assert added.json()["is_healthy"]
            assert await seen(router) == "Bearer first"
            key_path.write_text("second")
            assert (await router.reload()).status_code == 200
            assert await seen(router) == "Bearer second"
        async with reloadable_router(tmp_path, **settings) as router:
            assert await seen(router) == "Bearer second"
        key_path.unlink()
        async with reloadable_router(tmp_path, **settings) as router:
            assert await router.urls() == []
            assert "replica left out, its key is missing" in caplog.text
            key_path.write_text("third")
            assert (await router.reload()).status_code == 200
            assert await seen(router) == "Bearer third"


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"url": "http://h:1"}, 400, "model"),
        ({"model": "tiny"}, 400, "url"),
        ({"url": "h:1", "model": "tiny"}, 400, "url"),
        ({"url": "http://127.0.0.1:9/€", "model": "tiny"}, 400, "url"),
        ({"url": "http://u:hush@127.0.0.1:9", "model": "tiny"}, 400, "url"),
        ({"url": "http://h:1", "model": "tiny", "api_key_file": "/none"}, 400, "api_key_file"),
        ({"url": "http://h:1", "model": "tiny", "wieght": 1}, 400, "wieght"),
        ({"url": "http://h:1", "model": "other"}, 404, "model"),
    ],
)
async def test_bad_additions_are_refused(
    body: dict[str, object], status: int, param: str, tmp_path: Path
) -> None:
    """Each mistake is named in OpenAI's error body, and nothing is added."""
    async with FakeReplica() as replica, reloadable_router(tmp_path, replica) as router:
        answer = await router.client.post("/admin/replicas", json=body)
        assert answer.status_code == status
        assert answer.json()["error"]["param"] == param
        assert "hush" not in answer.text
        assert await router.urls() == [replica.url]
        missing = await router.client.delete("/admin/replicas")
        assert missing.status_code == 400
