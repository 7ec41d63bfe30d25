"""The supervising proxy in front of a real process that stands in for vLLM's server."""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from adapter_files import ALL_BASES, HEADERS, adapter_files, form, write_files
from fakes import served

from serving.adapter_store import AdapterStore
from serving.errors import EngineError
from serving.keys import KeyRing
from serving.vllm_engine.adapters import VllmAdapters
from serving.vllm_engine.engine import VllmEngine
from serving.vllm_engine.proxy import build_proxy
from serving.vllm_engine.supervisor import Launch, VllmSupervisor
from serving.vllm_engine.upstream import open_upstream

FAKE = Path(__file__).parents[2] / "fake_vllm.py"


@asynccontextmanager
async def fronted(
    folder,
    *,
    behaviour="",
    first=None,
    start_seconds=60.0,
    adapter_seconds=120.0,
    base=None,
    **limits,
):
    """Yield the supervisor, and a client of the proxy on a loopback socket."""
    uds = folder / "vllm.sock"
    launch = Launch(
        (sys.executable, str(FAKE), "--uds", str(uds)),
        os.environ | {"FAKE_VLLM": behaviour},
        uds,
        start_seconds,
    )
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(
            open_upstream(uds, adapter_seconds=adapter_seconds)
        )
        adapters = VllmAdapters(upstream, first or {}, base_digest=base)
        supervisor = VllmSupervisor(launch, is_ready=upstream.is_healthy, on_ready=adapters.restore)
        engine = VllmEngine(supervisor, upstream, adapters)
        app = build_proxy(engine, upstream, "m", **limits)
        url = await stack.enter_async_context(served(app))
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30))
        supervisor.start()
        try:
            yield supervisor, client
        finally:
            await supervisor.stop()


async def until(holds, *, seconds=30):
    """Wait until an awaitable condition holds."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(0.05)


async def is_up(client):
    """Whether the health check says so."""
    return (await client.get("/health")).status_code == 200


def completion(**fields):
    """Return the body of a completion."""
    return {"model": "m", "prompt": "a"} | fields


async def send(client, name, **manifest):
    """Upload an adapter."""
    body = form(adapter_files(**manifest))
    return await client.post(f"/admin/adapters/{name}", content=body, headers=HEADERS)


async def paths(client):
    """Return what vLLM has loaded, by name."""
    return (await client.get("/v1/paths")).json()


async def listed(client):
    """Return the names that Motley and vLLM list."""
    own = (await client.get("/admin/adapters")).json()["data"]
    theirs = (await client.get("/v1/models")).json()["data"]
    return [card["id"] for card in own], [card["id"] for card in theirs]


def _adapter(folder):
    return write_files(folder, adapter_files())


async def test_requests_pass_through_once_the_server_is_ready(tmp_path):
    """503 with a reason while loading; then bodies, streams, ids and versions are vLLM's own."""
    async with fronted(tmp_path) as (_, client):
        early = await client.post("/v1/completions", json=completion())
        assert early.status_code == 503
        assert "loading" in early.json()["error"]["message"]
        assert early.headers["retry-after"] == "1"
        await until(lambda: is_up(client))
        answer = await client.post(
            "/v1/completions?a=b", json=completion(), headers={"x-request-id": "r-1"}
        )
        assert answer.json()["request_id"] == answer.headers["x-request-id"] == "r-1"
        assert answer.json()["query"] == "a=b"
        stream = await client.post("/v1/completions", json=completion(stream=True))
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.text.endswith('data: {"n": 4}\n\ndata: [DONE]\n\n')
        said = (await client.get("/version")).json()
        assert (said["engine"], said["engine_version"]) == ("vllm", "9.9")
        metrics = (await client.get("/metrics")).text
        assert "vllm:x 1" in metrics
        assert 'motley:engine_restarts_total{model_name="m"} 0.0' in metrics


async def test_paths_of_operators_are_not_passed(tmp_path):
    """What is no part of OpenAI's API stays inside, with OpenAI's body; so do huge bodies."""
    async with fronted(tmp_path) as (_, client):
        await until(lambda: is_up(client))
        for path in ("/openapi.json", "/sleep", "/v2/x"):
            response = await client.get(path)
            assert response.status_code == 404
            assert path in response.json()["error"]["message"]
        huge = await client.post("/v1/completions", content=b"x" * ((8 << 20) + 1))
        assert huge.status_code == 413


async def test_a_crash_is_seen_restarted_and_its_adapters_return(tmp_path):
    """The client gets 503 or an error event, health says so, and a new process has the adapters."""
    folder = _adapter(tmp_path / "lora")
    async with fronted(tmp_path, first={"first": folder}) as (supervisor, client):
        await until(lambda: is_up(client))
        load = {"lora_name": "second", "lora_path": str(folder)}
        assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 200
        before = supervisor.pid
        crashed = await client.post("/v1/completions", json=completion(crash=True))
        assert crashed.status_code == 503

        async def is_known():
            return supervisor.num_crashes == 1

        await until(is_known)
        health = await client.get("/health")
        assert health.status_code == 503
        assert "the device is lost" in health.json()["error"]["message"]
        await until(lambda: is_up(client))
        assert supervisor.pid != before
        names = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        assert names == ["m", "first", "second"]

        broken = await client.post("/v1/completions", json=completion(stream=True, crash_at=2))
        events = [line for line in broken.text.split("\n\n") if line]
        assert events[:3] == ['data: {"n": 0}', 'data: {"n": 1}', 'data: {"n": 2}']
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == 503
        metrics = (await client.get("/metrics")).text
        assert 'motley:broken_answers_total{model_name="m"} 1.0' in metrics


async def test_a_client_that_leaves_ends_its_answer_at_the_server(tmp_path):
    """Leaving a stream closes the connection behind the proxy too."""
    async with fronted(tmp_path) as (_, client):
        await until(lambda: is_up(client))
        body = completion(stream=True, pause=600)
        headers = {"x-request-id": "gone"}
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as stream:
            await anext(stream.aiter_bytes())

        async def is_aborted():
            return (await client.get("/v1/aborted")).json() == ["gone"]

        await until(is_aborted)


async def test_a_crash_while_adapters_return_drops_none(tmp_path):
    """The second life ends at a load; the third has all adapters again."""
    deadly = write_files(tmp_path / "deadly", adapter_files(job="dies-at-second-load"))
    first = {"first": deadly, "second": _adapter(tmp_path / "lora")}
    async with fronted(tmp_path, first=first) as (supervisor, client):
        await until(lambda: is_up(client))
        assert (await client.post("/v1/completions", json=completion(crash=True))).is_error

        async def has_crashed_twice():
            return supervisor.num_crashes == 2 and await is_up(client)

        await until(has_crashed_twice)
        assert sorted(await paths(client)) == ["first", "second"]
        assert await listed(client) == (["first", "second"], ["m", "first", "second"])


async def test_a_first_start_that_fails_is_one_line_and_no_loop(tmp_path):
    """Wrong arguments end the server; the line names what its log says went wrong."""
    async with fronted(tmp_path, behaviour="fail") as (supervisor, client):
        with pytest.raises(EngineError) as caught:
            await asyncio.wait_for(supervisor.wait_loaded(), 30)
        said = "vllm ended with exit code 1 before it was ready: ValueError: no such model"
        assert str(caught.value) == said
        assert said in (await client.get("/health")).json()["error"]["message"]
        assert supervisor.num_crashes == 0


async def test_a_start_that_takes_too_long_is_ended(tmp_path):
    """A server that never gets ready is stopped, and the line says what to do."""
    async with fronted(tmp_path, behaviour="hang", start_seconds=1.0) as (supervisor, _):
        with pytest.raises(EngineError, match="not ready after 1 s; give --start-timeout more"):
            await asyncio.wait_for(supervisor.wait_loaded(), 30)
        with pytest.raises(ProcessLookupError):
            os.kill(supervisor.pid, 0)


async def test_adapters_are_checked_before_vllm_sees_them(tmp_path):
    """No folder without safetensors, no taken name; what vLLM refuses is passed on as its words."""
    folder = _adapter(tmp_path / "lora")
    async with fronted(tmp_path) as (_, client):
        await until(lambda: is_up(client))
        good = {"lora_name": "good", "lora_path": str(folder)}
        assert (await client.post("/v1/load_lora_adapter", json=good)).status_code == 200
        for body, words in (
            (good, "already loaded"),
            (good | {"lora_name": "m"}, "base model"),
            (good | {"lora_name": "bad"}, "rank 512 is too large"),
            ({"lora_name": "x", "lora_path": "/nowhere"}, "adapter_config.json"),
            ({"lora_name": "x", "lora_path": "nul\0"}, "is no path"),
            ({"lora_name": "x"}, "lora_path"),
        ):
            refused = await client.post("/v1/load_lora_adapter", json=body)
            assert refused.status_code == 400
            assert words in refused.json()["error"]["message"]
        gone = {"lora_name": "good"}
        assert (await client.post("/v1/unload_lora_adapter", json=gone)).status_code == 200
        assert (await client.post("/v1/unload_lora_adapter", json=gone)).status_code == 404


async def test_an_upload_takes_an_adapters_place_without_a_request_lost(tmp_path):
    """While vLLM changes adapters new requests wait; one it refuses leaves the old; both outlive it."""
    store = AdapterStore(tmp_path / "uploads")
    async with fronted(tmp_path, store=store, base=lambda: ALL_BASES) as (supervisor, client):
        await until(lambda: is_up(client))

        assert (await send(client, "mine")).status_code == 200
        first = (await paths(client))["mine"]
        sending = asyncio.create_task(send(client, "mine"))
        while not sending.done():
            answer = await client.post("/v1/completions", json=completion(model="mine"))
            assert answer.status_code == 200, answer.text
        assert sending.result().json()["replaced"]
        second = (await paths(client))["mine"]
        assert first != second
        refused = await send(client, "mine", base_weights_sha256="1" * 64)
        assert "adapter 'mine': was trained on base weights 1111" in refused.text
        refused = await send(client, "mine", job="refused-by-vllm")
        assert (refused.status_code, (await paths(client))["mine"]) == (400, second)
        os.kill(supervisor.pid, signal.SIGKILL)

        async def is_back():
            return supervisor.num_crashes == 1 and await is_up(client)

        await until(is_back)
        assert (await paths(client))["mine"] == second
    store.close()


async def test_requests_that_vllm_looks_up_too_late_are_asked_again(tmp_path):
    """Eight large ones are on their way when their adapter goes; all find the next one."""
    store = AdapterStore(tmp_path / "uploads")
    async with fronted(tmp_path, store=store) as (_, client):
        await until(lambda: is_up(client))
        assert (await send(client, "mine")).status_code == 200
        body = completion(model="mine", prompt="x" * 500_000, is_late=True)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(client.post("/v1/completions", json=body)) for _ in range(8)]
            await asyncio.sleep(0.3)
            replaced = await send(client, "mine")
        assert replaced.json()["replaced"]
        assert [task.result().status_code for task in asked] == [200] * 8
        unknown = await client.post("/v1/completions", json=completion(model="none"))
        assert unknown.status_code == 404
    store.close()


async def test_a_load_that_takes_too_long_leaves_what_was_there(tmp_path):
    """VLLM finishes it all the same: the name is freed of it, and has the old adapter or none."""
    store = AdapterStore(tmp_path / "uploads")
    async with fronted(tmp_path, store=store, adapter_seconds=2.0) as (_, client):
        await until(lambda: is_up(client))
        assert (await send(client, "mine")).status_code == 200
        before = await paths(client)
        for name in ("mine", "other"):
            late = await send(client, name, job="slow")
            assert late.status_code == 408
            assert "vllm did not answer /v1/load_lora_adapter in 2 s" in late.text
            assert await paths(client) == before
            assert await listed(client) == (["mine"], ["m", "mine"])
            assert (await send(client, name)).status_code == 200
            before = await paths(client)
    store.close()


@pytest.mark.parametrize("name", ["new", "mine"])
async def test_a_long_load_holds_back_only_who_asks_for_that_adapter(tmp_path, name):
    """Others are answered meanwhile, lists name it all along, and the wait counts as the request's."""
    store = AdapterStore(tmp_path / "uploads")
    limits = {"adapter_seconds": 5.0, "request_timeout_seconds": 1.0}
    async with fronted(tmp_path, store=store, **limits) as (_, client):
        await until(lambda: is_up(client))
        assert (await send(client, "mine")).status_code == 200
        sending = asyncio.create_task(send(client, name, job="slow"))

        async def is_loading():
            return (await client.get("/v1/loading")).json() == [name]

        await until(is_loading)
        assert await listed(client) == (["mine"], ["m", "mine"])
        assert (await client.post("/v1/completions", json=completion())).status_code == 200
        mine = await client.post("/v1/completions", json=completion(model="mine"))
        assert mine.status_code == (200 if name == "new" else 408)
        assert not sending.done()
        assert (await sending).status_code == 408
        again = await client.post("/v1/completions", json=completion(model="mine"))
        assert again.status_code == 200
    store.close()


async def test_stopping_ends_the_process(tmp_path):
    """After `stop` no process is left, and requests are told to go elsewhere."""
    async with fronted(tmp_path) as (supervisor, client):
        await until(lambda: is_up(client))
        pid = supervisor.pid
        await supervisor.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert "shutting down" in (await client.get("/health")).json()["error"]["message"]


async def test_a_killed_server_is_restarted(tmp_path):
    """A process ended from outside counts as a crash."""
    async with fronted(tmp_path) as (supervisor, client):
        await until(lambda: is_up(client))
        os.kill(supervisor.pid, signal.SIGKILL)

        async def is_known():
            return supervisor.num_crashes == 1

        await until(is_known)
        await until(lambda: is_up(client))


async def test_keys_and_the_time_limit_are_the_endpoints(tmp_path):
    """VLLM sees no key: who may ask is checked in front of it, and so is how long."""
    keys = KeyRing(["user"], ["admin"])
    async with fronted(tmp_path, keys=keys, request_timeout_seconds=1.0) as (_, client):
        await until(lambda: is_up(client))
        assert (await client.post("/v1/completions", json=completion())).status_code == 401
        client.headers["authorization"] = "Bearer user"
        assert (await client.post("/v1/completions", json=completion())).status_code == 200
        load = {"lora_name": "a", "lora_path": str(_adapter(tmp_path / "lora"))}
        assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 403
        slow = await client.post("/v1/completions", json=completion(stream=True, pause=600))
        events = [line for line in slow.text.split("\n\n") if line]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == 408
        metrics = (await client.get("/metrics")).text
        assert 'motley:request_errors_total{model_name="m",status="401"} 1.0' in metrics
