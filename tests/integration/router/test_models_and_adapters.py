"""Several models, adapters the replicas list, and adapter commands."""

import asyncio

import httpx
from fakes import FakeReplica
from router_under_test import FAST_HEALTH, OpenRouter

LOAD = {"lora_name": "sql", "lora_path": "/adapters/sql"}


async def ask(client: httpx.AsyncClient, model: str) -> httpx.Response:
    """Ask `model` for a completion."""
    return await client.post("/v1/completions", json={"model": model, "prompt": "x"})


async def test_each_model_has_its_replicas(open_router: OpenRouter) -> None:
    """Requests go to the replicas of the model they name, spread evenly."""
    async with (
        FakeReplica(model="a/b") as first,
        FakeReplica(model="a/b") as second,
        FakeReplica(model="c") as other,
        open_router(first, second, other) as client,
    ):
        for model in ["a/b"] * 6 + ["c"] * 2:
            assert (await ask(client, model)).json()["model"] == model
        listed = (await client.get("/v1/models")).json()
        assert [entry["id"] for entry in listed["data"]] == ["a/b", "c"]
        assert (await client.get("/v1/models/a/b")).json()["owned_by"] == "fake"
    assert [len(each.requests) for each in (first, second, other)] == [3, 3, 2]


async def test_adapter_is_found_where_it_was_published(open_router: OpenRouter) -> None:
    """An adapter loaded behind the router's back is found at the first request that names it."""
    async with (
        FakeReplica() as plain,
        FakeReplica() as adapted,
        open_router(plain, adapted, health={"interval_seconds": 3600}) as client,
    ):
        assert (await ask(client, "sql")).status_code == 404
        adapted.adapters.add("sql")
        for _ in range(3):
            assert (await ask(client, "sql")).status_code == 200
        assert (await client.get("/v1/models/sql")).status_code == 200
    assert len(plain.requests) == 0
    assert len(adapted.requests) == 3


async def test_adapter_appears_and_goes_with_the_checks(open_router: OpenRouter) -> None:
    """The list follows the replicas without a request that names the adapter."""
    async with FakeReplica() as replica, open_router(replica, health=FAST_HEALTH) as client:
        for adapters, names in (({"sql"}, ["tiny", "sql"]), (set(), ["tiny"])):
            replica.adapters = adapters
            await asyncio.sleep(0.4)
            listed = (await client.get("/v1/models")).json()["data"]
            assert [entry["id"] for entry in listed] == names


async def test_load_reaches_every_replica(open_router: OpenRouter) -> None:
    """With one model no name is needed; the adapter is routable when the answer comes."""
    async with (
        FakeReplica() as first,
        FakeReplica() as second,
        open_router(first, second, health={"interval_seconds": 3600}) as client,
    ):
        answer = await client.post("/v1/load_lora_adapter", json=LOAD)
        assert answer.json() == {
            "status": "ok",
            "model": "tiny",
            "replicas": [first.url, second.url],
        }
        assert first.requests[0].fields == second.requests[0].fields == LOAD
        listed = (await client.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["tiny", "sql"]
        answer = await client.post("/v1/unload_lora_adapter", json={"lora_name": "sql"})
        assert answer.status_code == 200
        assert (await ask(client, "sql")).status_code == 404


async def test_load_tells_which_replica_failed(open_router: OpenRouter) -> None:
    """A partial failure is an error that names the replica; a common refusal passes."""
    async with (
        FakeReplica() as good,
        FakeReplica(adapter_status=500) as bad,
        open_router(good, bad) as client,
    ):
        answer = await client.post("/v1/load_lora_adapter", json=LOAD)
        assert answer.status_code == 502
        assert f"1 of 2 replicas failed: {bad.url} answered 500" in answer.text
        assert f"; done on {good.url}" in answer.text
        good.adapter_status = bad.adapter_status = 404
        answer = await client.post("/v1/load_lora_adapter", json=LOAD)
        assert (answer.status_code, answer.json()) == (404, {"error": {"message": "no"}})


async def test_load_tells_which_replica_was_out_of_service(open_router: OpenRouter) -> None:
    """Success on the others is no success: the one that comes back would lack the adapter."""
    async with (
        FakeReplica() as good,
        FakeReplica(is_healthy=False) as down,
        open_router(good, down, health={"failures_to_unhealthy": 1}) as client,
    ):
        answer = await client.post("/v1/load_lora_adapter", json=LOAD)
        assert answer.status_code == 502
        assert f"1 of 2 replicas failed: {down.url} is out of service" in answer.text
        assert f"; done on {good.url}" in answer.text
        assert (good.adapters, len(down.requests)) == ({"sql"}, 0)
        assert (await ask(client, "sql")).status_code == 200
        good.adapter_status = 400
        answer = await client.post("/v1/load_lora_adapter", json=LOAD)
        assert (answer.status_code, answer.json()) == (400, {"error": {"message": "no"}})


async def test_load_with_several_models(open_router: OpenRouter) -> None:
    """With several models the query names one; its replicas alone get the command."""
    async with (
        FakeReplica(model="a") as first,
        FakeReplica(model="b") as second,
        open_router(first, second) as client,
    ):
        answer = await client.post("/v1/load_lora_adapter", json=LOAD)
        assert answer.status_code == 400
        assert "?model=NAME with one of: a, b" in answer.text
        assert (await client.post("/v1/load_lora_adapter?model=c", json=LOAD)).status_code == 404
        assert (await client.post("/v1/load_lora_adapter?model=b", json={})).status_code == 400
        assert (await client.post("/v1/load_lora_adapter?model=b", json=LOAD)).status_code == 200
    assert (first.adapters, second.adapters) == (set(), {"sql"})
