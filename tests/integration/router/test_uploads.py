"""Adapters sent through the router: to every replica, or told which has it not."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from adapter_files import HEADERS, adapter_files, form, in_pieces
from fakes import FakeReplica, served
from router_under_test import OpenRouter
from starlette.types import Scope

from router import adapters, spool
from router.adapters import MOST_UPLOADS
from router.spool import Spool
from serving.adapter_store import AdapterStore
from serving.app import build_app
from serving.emulated.config import EmulatedConfig
from serving.emulated.server import build_emulation
from serving.keys import KeyRing

PATH = "/admin/adapters/sql"
BODY = form(adapter_files())


async def send(client: httpx.AsyncClient, body: bytes = BODY, path: str = PATH) -> httpx.Response:
    """Send an upload without saying its length."""
    return await client.post(path, content=in_pieces(body), headers=HEADERS)


async def test_an_upload_reaches_every_replica(open_router: OpenRouter) -> None:
    """Body, type, key and name come through unchanged; the name is routable when the answer comes."""
    async with (
        FakeReplica(key="s3cret") as first,
        FakeReplica(key="s3cret") as second,
        open_router(first, second, health={"interval_seconds": 3600}) as client,
    ):
        client.headers["authorization"] = "Bearer s3cret"
        answer = await send(client)
        assert answer.json() == {
            "status": "ok",
            "model": "tiny",
            "replicas": [first.url, second.url],
        }
        for replica in (first, second):
            (received,) = replica.requests
            assert received.body == hashlib.sha256(BODY).hexdigest().encode()
            assert received.headers["content-type"] == HEADERS["content-type"]
            assert received.headers["content-length"] == str(len(BODY))
            assert received.headers["authorization"] == "Bearer s3cret"
        asked = await client.post("/v1/completions", json={"model": "sql", "prompt": "x"})
        assert asked.status_code == 200
        listed = (await client.get("/admin/adapters")).json()
        assert listed["data"] == [
            {"id": "sql", "replica": first.url},
            {"id": "sql", "replica": second.url},
        ]
        assert listed["failures"] == {}
        assert (await client.delete(PATH)).status_code == 200
        assert first.adapters == second.adapters == set()
        assert (await client.delete(PATH)).status_code == 404


async def test_completions_carry_the_clients_key(open_router: OpenRouter) -> None:
    """The router judges no key: every request has the one its client sent, or none."""
    async with FakeReplica() as replica, open_router(replica) as client:
        for key in ("Bearer a", "Bearer b", None):
            given = {} if key is None else {"authorization": key}
            for path in ("/v1/completions", "/v1/chat/completions", "/v1/load_lora_adapter"):
                body = {"model": "tiny", "prompt": "x", "messages": []}
                body |= {"lora_name": "n", "lora_path": "/p"}
                assert (await client.post(path, json=body, headers=given)).status_code == 200
                assert replica.requests[-1].headers.get("authorization") == key


async def test_an_upload_tells_which_replica_failed(open_router: OpenRouter) -> None:
    """The others have it; what the failed ones said stands in the answer, the absent ones too."""
    async with (
        FakeReplica() as good,
        FakeReplica(adapter_status=400) as bad,
        FakeReplica(takes_uploads=False) as old,
        FakeReplica(is_healthy=False) as down,
        open_router(good, bad, old, down, health={"failures_to_unhealthy": 1}) as client,
    ):
        answer = await send(client)
        assert answer.status_code == 502
        said = answer.json()["error"]["message"]
        assert "3 of 4 replicas failed" in said
        assert f'{bad.url} answered 400: {{"error":{{"message":"no"}}}}' in said
        assert f"{old.url} answered 404" in said
        assert f"{down.url} is out of service" in said
        assert said.endswith(f"; done on {good.url}")
        assert [good.adapters, bad.adapters, old.adapters] == [{"sql"}, set(), set()]
        listed = (await client.get("/admin/adapters")).json()
        assert set(listed["failures"]) == {old.url, down.url}


async def test_a_key_is_judged_before_the_body_is_taken(
    open_router: OpenRouter, tmp_path: Path
) -> None:
    """The replicas' refusal comes back as it is, and nothing of the body reaches disk or replica."""
    async with (
        FakeReplica(key="s3cret") as replica,
        # A folder that is not there would fail the first byte kept.
        open_router(replica, spool_folder=str(tmp_path / "nowhere")) as client,
    ):
        answer = await send(client)
        assert (answer.status_code, answer.json()) == (401, {"error": {"message": "no key"}})
        assert replica.requests == []
        client.headers["authorization"] = "Bearer s3cret"
        full = await send(client)
        assert full.status_code == 507
        assert "set spool_folder" in full.json()["error"]["message"]


@pytest.mark.parametrize("has_length", [True, False], ids=["stated", "absent"])
async def test_an_upload_above_the_limit_is_refused(
    open_router: OpenRouter, has_length: bool
) -> None:
    """The router has a limit of its own, whatever the body says of its length."""
    async with FakeReplica() as replica, open_router(replica, max_upload_bytes="1KiB") as client:
        body = BODY * 9
        content = body if has_length else in_pieces(body, 512)
        answer = await client.post(PATH, content=content, headers=HEADERS)
        assert answer.status_code == 413
        assert replica.requests == []


async def test_a_replica_that_takes_no_uploads_is_sent_none(
    open_router: OpenRouter, tmp_path: Path
) -> None:
    """What strangers could send to it does not reach the router's disk either; its words are told."""
    config = EmulatedConfig(model="llama-3.1-8b", hardware="a100", served_model_name="tiny")
    async with (
        served(build_app(*build_emulation(config))) as url,
        open_router(FakeReplica(url=url), spool_folder=str(tmp_path / "nowhere")) as client,
    ):
        assert (await client.get("/admin/adapters")).json()["max_upload_bytes"] is None
        answer = await send(client)
        assert answer.status_code == 403
        assert "--adapter-upload-dir" in answer.json()["error"]["message"]


async def test_the_smallest_limit_of_the_replicas_holds(open_router: OpenRouter) -> None:
    """It is told before anything is sent, and refuses what says it is longer."""
    async with (
        FakeReplica(max_upload_bytes=1 << 20) as first,
        FakeReplica(max_upload_bytes=1 << 10) as second,
        open_router(first, second) as client,
    ):
        assert (await client.get("/admin/adapters")).json()["max_upload_bytes"] == 1 << 10
        answer = await client.post(PATH, content=BODY * 9, headers=HEADERS)
        assert answer.status_code == 413
        assert first.requests == second.requests == []


async def test_few_uploads_are_kept_at_once(
    open_router: OpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One more is told to come again, and taken when another has ended."""
    have_begun, release = asyncio.Event(), asyncio.Event()
    scopes = []

    def spooled(scope: Scope, *given: Any, **limits: Any) -> AbstractAsyncContextManager[Spool]:
        scopes.append(scope)
        if len(scopes) == MOST_UPLOADS:
            have_begun.set()
        return spool.spooled(scope, *given, **limits)

    monkeypatch.setattr(adapters, "spooled", spooled)

    async def body() -> AsyncIterator[bytes]:
        yield BODY
        await release.wait()

    async with FakeReplica() as replica, open_router(replica) as client:
        running = [
            asyncio.create_task(client.post(PATH, content=body(), headers=HEADERS))
            for _ in range(MOST_UPLOADS)
        ]
        async with asyncio.timeout(10):
            await have_begun.wait()
        answer = await send(client)
        assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
        release.set()
        assert [each.status_code for each in await asyncio.gather(*running)] == [200] * MOST_UPLOADS
        assert (await send(client)).status_code == 200


async def test_a_replica_that_does_not_list_in_time_is_told_of(open_router: OpenRouter) -> None:
    """An upload waits for it no longer than a health check does."""
    async with (
        FakeReplica() as good,
        FakeReplica(list_seconds=60) as slow,
        open_router(good, slow, health={"timeout_seconds": 0.3}) as client,
    ):
        answer = await send(client)
        said = answer.json()["error"]["message"]
        assert f"{slow.url} sent no first byte within 0.3 seconds" in said
        assert good.adapters == {"sql"}


async def test_a_replica_that_refuses_early_is_told_of(open_router: OpenRouter) -> None:
    """A replica's own limit, told before it has read everything, is its answer."""
    async with FakeReplica(adapter_status=413) as replica, open_router(replica) as client:
        answer = await send(client, bytes(4 << 20))
        assert (answer.status_code, answer.json()) == (413, {"error": {"message": "too large"}})


async def test_a_large_upload_takes_little_memory(open_router: OpenRouter) -> None:
    """200 MB lie on disk and pass from there: the process's own objects stay below 16 MB."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(800):
            yield bytes(1 << 18)

    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        open_router(first, second) as client,
    ):
        tracemalloc.start()
        try:
            answer = await client.post(PATH, content=body(), headers=HEADERS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert answer.status_code == 200, answer.text
        assert first.requests[0].headers["content-length"] == str(800 << 18)
        assert peak < 16 << 20


async def test_a_real_endpoint_takes_what_the_router_passes(
    open_router: OpenRouter, tmp_path: Path
) -> None:
    """The endpoint behind the router loads the adapter; its refusals and names come through."""
    config = EmulatedConfig(model="llama-3.1-8b", hardware="a100", served_model_name="tiny")
    service, runner = build_emulation(config)
    store = AdapterStore(tmp_path / "uploads")
    app = build_app(service, runner, keys=KeyRing(["user"], ["admin"]), store=store)
    key_file = tmp_path / "key"
    key_file.write_text("# for checks\nuser\n")
    async with served(app) as url:
        replica = FakeReplica(url=url)
        async with open_router(replica, health={"api_key_file": str(key_file)}) as client:
            client.headers["authorization"] = "Bearer user"
            assert (await send(client)).status_code == 403
            client.headers["authorization"] = "Bearer admin"
            assert (await send(client)).status_code == 200
            assert (await send(client, path="/admin/adapters/a%2Fb")).status_code == 200
            assert runner.adapter_names == ["a/b", "sql"]
            broken = form(adapter_files(schema_version=9))
            refused = await send(client, broken)
            assert refused.status_code == 400
            assert "schema_version 9 is unknown" in refused.json()["error"]["message"]
            asked = {"model": "a/b", "prompt": "x", "max_tokens": 1}
            assert (await client.post("/v1/completions", json=asked)).status_code == 200
    store.close()
