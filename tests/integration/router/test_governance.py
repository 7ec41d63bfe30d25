"""Keys, limits and usage of a running router."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from fakes import FakeReplica
from keys_files import ADMIN, bearer, write_governance
from pydantic import ValidationError
from router_under_test import OpenRouter, ReadLines

from planner.documents import describe
from router.config import ReplicaConfig, RouterConfig
from router.gateway import open_gateway
from router.governance_config import KeyConfig
from router.replica_keys import ReplicaKeys
from router.traffic_log import TrafficLog

BODY: dict[str, object] = {"model": "tiny", "prompt": "PRIVATE", "max_tokens": 5}
ALICE = "alices-secret-key"
BOB = "bobs-secret-key"


async def ask(client: httpx.AsyncClient, key: str, **fields: object) -> httpx.Response:
    """Send one completion with a key."""
    return await client.post("/v1/completions", json=BODY | fields, headers=bearer(key))


async def usage(client: httpx.AsyncClient, **query: str) -> dict[str, list[dict[str, object]]]:
    """Return what `/admin/usage` says."""
    return (await client.get("/admin/usage", params=query, headers=bearer(ADMIN))).json()


def contents(folder: Path) -> bytes:
    """Return what all files of a folder hold, but for the administrator's key."""
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.name != "admin.key")


async def test_only_known_keys_get_in(
    tmp_path: Path, open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """No key, a wrong one and the administrator's are 401; nothing of it reaches a replica."""
    governance = write_governance(tmp_path, {ALICE: {"name": "alice"}})
    async with FakeReplica() as replica, open_router(replica, governance=governance) as client:
        for headers in ({}, bearer("wrong"), bearer(ADMIN), {"authorization": f"Basic {ALICE}"}):
            refused = await client.post("/v1/completions", json=BODY, headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["error"]["type"] == "AuthenticationError"
            assert (await client.get("/v1/models", headers=headers)).status_code == 401
        assert not replica.requests
        assert (await ask(client, ALICE)).status_code == 200
        metrics = (await client.get("/metrics")).text
    assert 'motley_router_refusals_total{reason="key",tenant=""} 8.0' in metrics
    assert [line["tenant"] for line in read_lines()] == [None] * 4 + ["alice"]
    assert "authorization" not in replica.requests[0].headers


async def test_a_key_sees_and_uses_its_models_only(tmp_path: Path, open_router: OpenRouter) -> None:
    """Another model is 403 and not listed; names that end in `*` are beginnings.

    No refusal tells it of another.
    """
    governance = write_governance(
        tmp_path,
        {
            ALICE: {"name": "alice", "models": ["ti*", "minions/*"]},
            BOB: {"name": "bob", "models": []},
        },
    )
    async with (
        FakeReplica() as tiny,
        FakeReplica(model="big") as big,
        open_router(tiny, big, governance=governance) as client,
    ):
        assert (await ask(client, ALICE)).status_code == 200
        refused = await ask(client, ALICE, model="big")
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "model")
        assert (await ask(client, BOB)).status_code == 403
        listed = (await client.get("/v1/models", headers=bearer(ALICE))).json()["data"]
        assert [each["id"] for each in listed] == ["tiny"]
        hidden = await client.get("/v1/models/big", headers=bearer(ALICE))
        assert hidden.status_code == 404
        for unknown in ("tinier", "minions/tiny+none"):
            answer = await ask(client, ALICE, model=unknown)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"].endswith("does not exist; use one of: tiny")
    assert not big.requests


async def test_requests_a_minute(tmp_path: Path, open_router: OpenRouter) -> None:
    """The limit holds for requests at once, says when to come back, and is another key's own."""
    governance = write_governance(
        tmp_path, {ALICE: {"name": "alice", "requests_per_minute": 3}, BOB: {"name": "bob"}}
    )
    async with FakeReplica() as replica, open_router(replica, governance=governance) as client:
        answers = await asyncio.gather(*[ask(client, ALICE) for _ in range(8)])
        assert sorted(each.status_code for each in answers) == [200] * 3 + [429] * 5
        assert (await ask(client, BOB)).status_code == 200
    kept = [each for each in answers if each.status_code == 200]
    left = sorted(each.headers["x-ratelimit-remaining-requests"] for each in kept)
    assert left == ["0", "1", "2"]
    refused = next(each for each in answers if each.status_code == 429)
    assert 58 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.json()["error"]["type"] == "RateLimitError"
    assert len(replica.requests) == 4


async def test_a_prompt_is_counted_once(
    tmp_path: Path, open_router: OpenRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reservation goes by the count that the choice of a replica goes by."""
    counted: list[str] = []

    def num_bytes(text: str) -> int:
        counted.append(text)
        return len(text)

    monkeypatch.setattr("router.prompt_size._num_bytes", num_bytes)
    governance = write_governance(tmp_path, {ALICE: {"name": "alice", "tokens_per_minute": 100}})
    async with FakeReplica() as replica, open_router(replica, governance=governance) as client:
        assert (await ask(client, ALICE)).status_code == 200
    assert counted == ["PRIVATE"]


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_a_minute_are_reserved_then_corrected(
    tmp_path: Path, open_router: OpenRouter, stream: bool
) -> None:
    """What a request did not use of its reservation is free again; what it states is held."""
    governance = write_governance(tmp_path, {ALICE: {"name": "alice", "tokens_per_minute": 110}})
    async with FakeReplica() as replica, open_router(replica, governance=governance) as client:
        for remaining in (98, 86):  # the fake counts 7 + 5 tokens, 102 are reserved
            answer = await ask(client, ALICE, max_tokens=remaining - 5, stream=stream)
            assert answer.status_code == 200
            (key,) = (await usage(client))["keys"]
            assert key["tokens_in_last_minute"] == 110 - remaining
        refused = await ask(client, ALICE, max_tokens=100)
        assert refused.status_code == 429
        hopeless = await ask(client, ALICE, max_tokens=1000)
        assert (hopeless.status_code, "retry-after" in hopeless.headers) == (429, False)
        assert hopeless.headers["x-should-retry"] == "false"


async def test_a_failed_request_costs_nothing(tmp_path: Path, open_router: OpenRouter) -> None:
    """What no replica answered is given back, budget and tokens."""
    governance = write_governance(
        tmp_path,
        {
            ALICE: {
                "name": "alice",
                "tokens_per_minute": 50,
                "budgets": [{"per": "total", "tokens": 50}],
            }
        },
    )
    async with (
        FakeReplica(behaviour="refuse") as replica,
        open_router(replica, governance=governance) as client,
    ):
        for _ in range(5):
            assert (await ask(client, ALICE, max_tokens=40)).status_code in (502, 503)
        (key,) = (await usage(client))["keys"]
        assert key["tokens_in_last_minute"] == 0
        assert key["budgets"] == [{"per": "total", "tokens": 50, "used": 0, "reserved": 0}]


@pytest.mark.parametrize("count", [-5, 10**29, 10**400], ids=["negative", "huge", "no-float"])
async def test_an_absurd_report_counts_as_none(
    tmp_path: Path, open_router: OpenRouter, read_lines: ReadLines, count: int
) -> None:
    """The stream is charged by its pieces, the reservation ends, and the line is written."""
    entry = {"name": "alice", "budgets": [{"per": "total", "tokens": 1000}]}
    governance = write_governance(tmp_path, {ALICE: entry})
    report = {"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": count}}
    events = [{"choices": [{"text": "a"}]}, {"choices": [{"text": "b"}]}, report]
    pieces = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]
    async with (
        FakeReplica(pieces=[*pieces, b"data: [DONE]\n\n"]) as replica,
        open_router(replica, governance=governance) as client,
    ):
        assert (await ask(client, ALICE, stream=True)).status_code == 200
        (key,) = (await usage(client))["keys"]
        (row,) = (await usage(client))["data"]
    (budget,) = key["budgets"]
    assert (budget["reserved"], budget["used"]) == (0, row["prompt_tokens"] + 2)
    assert row["completion_tokens"] == 2
    (line,) = read_lines()
    assert line["completion_tokens"] is None


async def test_a_budget_in_dollars_survives_a_restart(tmp_path: Path) -> None:
    """Cost is tokens by the model's prices; a second router on the same files goes on counting."""
    governance = write_governance(
        tmp_path, {ALICE: {"name": "alice", "budgets": [{"per": "month", "usd": 0.000034}]}}
    )
    prices = {"price_input_usd_per_million": 1.0, "price_output_usd_per_million": 2.0}
    statuses = []
    async with FakeReplica() as replica:
        models = [{"name": "tiny", "replicas": [{"url": replica.url}], **prices}]
        settings = {"models": models, "governance": governance}
        config = RouterConfig.model_validate(settings)
        for _ in range(2):
            async with (
                open_gateway(config, TrafficLog(None)) as application,
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(application), base_url="http://router"
                ) as client,
            ):
                # 7 prompt tokens and 5 of completion: $0.000017 each
                for _ in range(2):
                    answer = await ask(client, ALICE)
                    statuses.append(answer.status_code)
                told = await usage(client, key="alice")
    assert statuses == [200, 200, 429, 429]
    assert answer.json()["error"]["type"] == "InsufficientQuotaError"
    assert answer.headers["x-should-retry"] == "false"
    (row,) = told["data"]
    assert (row["key"], row["model"], row["requests"]) == ("alice", "tiny", 2)
    assert (row["prompt_tokens"], row["completion_tokens"], row["cost_usd"]) == (14, 10, 0.000034)
    (key,) = told["keys"]
    (budget,) = key["budgets"]
    assert budget == {"per": "month", "usd": 0.000034, "used": 0.000034, "reserved": 0.0}


async def test_administration_needs_its_own_key(tmp_path: Path, open_router: OpenRouter) -> None:
    """Commands take the administrator's key alone, and it does not reach the replicas."""
    governance = write_governance(tmp_path, {ALICE: {"name": "alice"}})
    load = {"lora_name": "a", "lora_path": "/a"}
    async with FakeReplica() as replica, open_router(replica, governance=governance) as client:
        for path in ("/admin/usage", "/admin/replicas", "/admin/adapters", "/admin/none"):
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers=bearer(ALICE))).status_code == 403
        assert (await client.post("/admin/reload", headers=bearer(ALICE))).status_code == 403
        refused = await client.post("/v1/load_lora_adapter", json=load, headers=bearer(ALICE))
        assert refused.status_code == 403
        assert (await client.get("/admin/none", headers=bearer(ADMIN))).status_code == 404
        loaded = await client.post("/v1/load_lora_adapter", json=load, headers=bearer(ADMIN))
        assert loaded.status_code == 200
    assert "authorization" not in replica.requests[0].headers


async def test_without_an_administrators_key_only_adapters_are_open(
    open_router: OpenRouter,
) -> None:
    """The replicas judge adapter commands by the client's own key; all else is closed."""
    async with FakeReplica(key="the-replicas") as replica, open_router(replica) as client:
        assert (await client.get("/admin/usage")).status_code == 403
        assert (await client.post("/admin/reload")).status_code == 403
        assert (await client.get("/admin/adapters")).status_code == 401
        listed = await client.get("/admin/adapters", headers=bearer("the-replicas"))
        assert listed.status_code == 200


async def test_replicas_get_keys_of_their_own(tmp_path: Path) -> None:
    """A replica's key goes to it in place of the client's, with requests, checks and commands."""
    (tmp_path / "replica.key").write_text("the-replicas")
    governance = write_governance(tmp_path, {ALICE: {"name": "alice"}})
    async with FakeReplica(key="the-replicas") as replica:
        entry = {"url": replica.url, "api_key_file": str(tmp_path / "replica.key")}
        config = RouterConfig.model_validate(
            {"models": [{"name": "tiny", "replicas": [entry]}], "governance": governance}
        )
        async with (
            open_gateway(config, TrafficLog(None)) as application,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(application), base_url="http://router"
            ) as client,
        ):
            assert (await ask(client, ALICE)).status_code == 200
            assert (await client.get("/admin/adapters", headers=bearer(ADMIN))).status_code == 200
    assert replica.requests[0].headers["authorization"] == "Bearer the-replicas"


@pytest.mark.parametrize("status", [401, 403])
async def test_a_replica_that_refuses_its_own_key_is_at_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Its clients could not mend that: another replica answers, and the operator is told."""
    (tmp_path / "replica.key").write_text("the-replicas")
    governance = write_governance(tmp_path, {ALICE: {"name": "alice"}})
    async with (
        FakeReplica(behaviour="refuse", status=status) as sick,
        FakeReplica() as well,
    ):
        entries = [
            {"url": each.url, "api_key_file": str(tmp_path / "replica.key")}
            for each in (sick, well)
        ]
        config = RouterConfig.model_validate(
            {"models": [{"name": "tiny", "replicas": entries}], "governance": governance}
        )
        async with (
            open_gateway(config, TrafficLog(None)) as application,
            httpx.AsyncClient(
                transport=httpx.ASGITransport(application), base_url="http://router"
            ) as client,
        ):
            for _ in range(4):
                assert (await ask(client, ALICE)).status_code == 200
    assert sick.requests
    assert "to the router's own key" in caplog.text


def test_a_replicas_key_is_masked_in_what_it_says() -> None:
    """Its refusals may repeat the key, which is none of the clients'."""
    replica = ReplicaConfig(url="http://a", api_key_file=Path("key"))
    keys = ReplicaKeys()
    keys.configure({Path("key"): "sk-secret"}, check_file=None)
    keys.give([replica])
    assert keys.masked("http://a", b"no such key: Bearer sk-secret.") == (
        b"no such key: Bearer [the replica's key]."
    )
    assert keys.masked("http://b", b"sk-secret") == b"sk-secret"


def test_what_stands_in_place_of_a_digest_is_not_shown() -> None:
    """It may be the key itself."""
    with pytest.raises(ValidationError) as found:
        KeyConfig.model_validate({"name": "a", "sha256": "mk-SECRET"})
    assert "SECRET" not in describe(found.value)
    assert "64 hexadecimal digits" in describe(found.value)


async def test_no_key_and_no_prompt_is_written_anywhere(
    tmp_path: Path,
    open_router: OpenRouter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the log, the traffic log, `/metrics`, `/admin/usage` nor any file holds them."""
    caplog.set_level("DEBUG", logger="router")
    governance = write_governance(
        tmp_path, {ALICE: {"name": "alice", "requests_per_minute": 2}, BOB: {"name": "bob"}}
    )
    async with FakeReplica() as replica, open_router(replica, governance=governance) as client:
        for key in (ALICE, ALICE, ALICE, "an-unknown-key"):
            await ask(client, key)
        shown = (await client.get("/metrics")).text + repr(await usage(client))
    everything = contents(tmp_path) + (caplog.text + shown).encode()
    assert b'"tenant":"alice"' in everything
    for secret in (ALICE, BOB, ADMIN, "an-unknown-key", "PRIVATE"):
        assert secret.encode() not in everything


async def test_prompts_are_stored_on_demand(tmp_path: Path, open_router: OpenRouter) -> None:
    """With `store_prompts` they are, in a file that only its owner reads."""
    path = tmp_path / "prompts.jsonl"
    settings = {"store_prompts": str(path)}
    async with FakeReplica() as replica, open_router(replica, governance=settings) as client:
        await client.post("/v1/completions", json=BODY)
    assert "PRIVATE" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
