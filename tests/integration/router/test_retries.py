"""Another replica before the first byte, an error event after it."""

import asyncio
import json

import httpx
import pytest
from fakes import Behaviour, FakeReplica
from router_under_test import FAST_HEALTH, OpenRouter, ReadLines

BODY = {"model": "tiny", "prompt": "x"}
STREAM = {**BODY, "stream": True}
SLOW_HEALTH = {"interval_seconds": 3600}


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("behaviour", "status"),
    [("die_before_first_byte", 0), ("refuse", 502), ("refuse", 503), ("refuse", 429)],
)
async def test_another_replica_answers(
    open_router: OpenRouter,
    read_lines: ReadLines,
    body: object,
    behaviour: Behaviour,
    status: int,
) -> None:
    """A replica that fails before its first byte costs a retry, not the request."""
    async with (
        FakeReplica(behaviour=behaviour, status=status) as bad,
        FakeReplica() as good,
        open_router(bad, good, health=SLOW_HEALTH) as client,
    ):
        for _ in range(4):
            assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert len(good.requests) == 4
    lines = read_lines()
    assert {line["replica"] for line in lines} == {good.url}
    retried = {line["request_id"] for line in lines if line["retries"] == 1}
    assert retried
    assert retried == {request.headers["x-request-id"] for request in bad.requests}


async def test_garbage_is_a_failure(open_router: OpenRouter) -> None:
    """A server that does not speak HTTP, or stops in the headers, costs a retry."""
    num_posts = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal num_posts
        is_post = (await reader.readuntil(b"\r\n")).startswith(b"POST")
        num_posts += is_post
        garbage = b"HTTP/1.1 200 O" if num_posts % 2 else b"\x00garbage\r\n\r\n"
        writer.write(garbage if is_post else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        FakeReplica() as good,
        open_router(
            FakeReplica(url=f"http://127.0.0.1:{port}"), good, health=FAST_HEALTH
        ) as client,
    ):
        for _ in range(4):
            assert (await client.post("/v1/completions", json=STREAM)).status_code == 200
            await asyncio.sleep(0.15)
    assert num_posts >= 2


async def test_silent_replica_times_out(open_router: OpenRouter) -> None:
    """No first byte in time: another replica answers, and its neighbour is taken out."""
    timeouts = {"first_byte_seconds": 0.2}
    async with (
        FakeReplica(behaviour="hang") as silent,
        FakeReplica() as good,
        open_router(silent, good, health=SLOW_HEALTH, timeouts=timeouts) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert (await client.post("/v1/completions", json=STREAM)).status_code == 200


async def health_is(client: httpx.AsyncClient, status: int) -> None:
    """Wait until the router's own health is `status`; a check or two away."""
    async with asyncio.timeout(30):
        while (await client.get("/health")).status_code != status:
            await asyncio.sleep(0.02)


async def test_failed_replica_returns_after_a_good_check(open_router: OpenRouter) -> None:
    """A replica out after a failure gets requests again once a check has succeeded."""
    async with (
        FakeReplica(behaviour="refuse", is_healthy=True) as flaky,
        open_router(flaky, health=FAST_HEALTH, retry={"wait_seconds": 0}) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 502
        flaky.is_healthy = False
        await health_is(client, 503)
        answer = await client.post("/v1/completions", json=BODY)
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        flaky.is_healthy, flaky.behaviour = True, "answer"
        await health_is(client, 200)
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert (await client.get("/health")).json()["models"] == {
            "tiny": {"healthy": 1, "replicas": 1}
        }


@pytest.mark.parametrize(("given", "wanted"), [({"retry-after": "7"}, "7"), ({}, "1")])
async def test_429_of_all_replicas_passes(
    open_router: OpenRouter, given: dict[str, str], wanted: str
) -> None:
    """If every replica is busy its refusal passes, with a `Retry-After` in any case."""
    busy = {"behaviour": "refuse", "status": 429, "refusal_headers": given}
    async with (
        FakeReplica(**busy) as first,
        FakeReplica(**busy) as second,
        open_router(first, second) as client,
    ):
        answer = await client.post("/v1/completions", json=STREAM)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == wanted
    assert answer.json()["error"]["message"] == "scripted"
    assert len(first.requests) == len(second.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422])
async def test_other_refusals_pass_unchanged(
    open_router: OpenRouter, read_lines: ReadLines, status: int
) -> None:
    """What another replica would refuse too is not retried."""
    async with (
        FakeReplica(behaviour="refuse", status=status) as first,
        FakeReplica(behaviour="refuse", status=status) as second,
        open_router(first, second) as client,
    ):
        answer = await client.post("/v1/completions", json=STREAM)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == status
    assert len(first.requests) + len(second.requests) == 1
    assert read_lines()[0]["status"] == status


async def test_attempts_are_bounded(open_router: OpenRouter, read_lines: ReadLines) -> None:
    """No more replicas are tried than configured; the last failure is told."""
    dead = {"behaviour": "die_before_first_byte"}
    async with (
        FakeReplica(**dead) as a,
        FakeReplica(**dead) as b,
        FakeReplica() as c,
        open_router(a, b, c, retry={"max_attempts": 2}, health=SLOW_HEALTH) as client,
    ):
        answer = await client.post("/v1/completions", json=BODY)
    assert answer.status_code == 502
    assert b.url in answer.json()["error"]["message"]
    assert read_lines()[0]["retries"] == 1


@pytest.mark.parametrize("asks", [True, False])
async def test_stream_broken_midway_ends_with_an_error_event(
    open_router: OpenRouter, read_lines: ReadLines, asks: bool
) -> None:
    """After the first byte nothing is retried: whole events, then one error event."""
    body = {**STREAM, "stream_options": {"include_usage": True}} if asks else STREAM
    async with (
        FakeReplica(behaviour="die_mid_stream", pause_seconds=0.01) as first,
        FakeReplica(behaviour="die_mid_stream", pause_seconds=0.01) as second,
        open_router(first, second) as client,
    ):
        answer = await client.post("/v1/completions", json=body)
    *events, last, end = answer.text.split("\n\n")
    assert end == ""
    assert len(events) >= 1
    assert first.stream_bytes(with_usage=False).decode().startswith("\n\n".join(events))
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "BadGatewayError"
    assert len(first.requests) + len(second.requests) == 1
    assert read_lines()[0]["status"] == 502


async def test_silent_stream_is_broken_off(open_router: OpenRouter) -> None:
    """A stream that stays silent too long ends with an error event."""
    async with (
        FakeReplica(pause_seconds=60) as replica,
        open_router(replica, timeouts={"idle_seconds": 0.2}) as client,
    ):
        answer = await client.post("/v1/completions", json=STREAM)
    assert "nothing came for 0.2 seconds" in answer.text.split("\n\n")[-2]


async def test_closed_kept_connection_is_no_failure(open_router: OpenRouter) -> None:
    """A replica that drops idle connections stays healthy and answers the next request."""
    async with FakeReplica() as replica, open_router(replica, health=SLOW_HEALTH) as client:
        for _ in range(3):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
            replica.drop_connections()
    assert len(replica.requests) == 3


async def test_client_that_leaves_cancels_the_replica(
    open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """Before the first byte and in the middle, a disconnect ends the work on the replica."""
    async with FakeReplica(behaviour="hang") as replica, open_router(replica) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post("/v1/completions", json=STREAM, timeout=0.2)
        await _until_cancelled(replica, 1)
        replica.behaviour, replica.pause_seconds = "answer", 3600
        async with client.stream("POST", "/v1/completions", json=STREAM) as response:
            async for _ in response.aiter_raw():
                break
        await _until_cancelled(replica, 2)
        await asyncio.sleep(0.05)
    assert [line["status"] for line in read_lines()] == [499, 499]


async def _until_cancelled(replica: FakeReplica, wanted: int) -> None:
    for _ in range(500):
        if replica.num_cancelled >= wanted:
            return
        await asyncio.sleep(0.01)
    pytest.fail(f"{replica.num_cancelled} of {wanted} requests were cancelled")
