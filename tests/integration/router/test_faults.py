"""Breakers, busy and silent replicas, other models, waiting, and deadlines."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fakes import FakeReplica
from router_under_test import FAST_HEALTH, OpenRouter, ReadLines, metric

BODY = {"model": "tiny", "prompt": "x"}
STREAM = {**BODY, "stream": True}
SLOW_HEALTH = {"interval_seconds": 3600}
AT_ONCE = {"wait_seconds": 0}


@asynccontextmanager
async def raw_server(answer: bytes, *, hold: bool = False) -> AsyncIterator[FakeReplica]:
    """Yield a server that passes checks and answers each POST with `answer`, then closes or holds."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            writer.write(answer)
            await writer.drain()
            if hold:
                await reader.read()
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            if b"/v1/models" in head:
                writer.write(b"")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield FakeReplica(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n"
JSON = HEAD % b"application/json"
EVENTS = HEAD % b"text/event-stream"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"\x00\x01garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Len",
        b"",
        JSON + b'Content-Length: 400\r\n\r\n{"choices": [',
        JSON + b'Content-Length: 13\r\n\r\n{"choices": [',
        JSON + b"Content-Length: 4\r\n\r\nnull",
        JSON + b'Content-Length: 12\r\n\r\n{"ok": true}',
        JSON + b'Content-Length: 16\r\n\r\n{"choices": 123}',
        JSON + CHUNKED + b'5\r\n{"a":\r\n',
        JSON + CHUNKED + b'zz\r\n{"a":\r\n',
        JSON + b"\r\n" + b'{"choices": [',
        EVENTS + b"Content-Length: 30\r\n\r\n<html>no such thing</html>\r\n\r\n",
        EVENTS + CHUNKED + b"0\r\n\r\n",
        EVENTS + CHUNKED + b"c\r\ndata: {]}  \n\r\n",
        EVENTS + CHUNKED + b"c\r\ndata: {]}\n\n\r\n",
        EVENTS + CHUNKED + b'25\r\ndata: {"error": {"code": 500}}      \n\n\r\n',
    ],
)
@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_what_is_no_answer_goes_to_another_replica(
    open_router: OpenRouter, read_lines: ReadLines, answer: bytes, body: object
) -> None:
    """Nothing has been sent, so whatever a broken replica says, a healthy one answers."""
    async with (
        raw_server(answer) as broken,
        FakeReplica() as good,
        # A server without /health and /v1/models is found down by checks: none comes here.
        open_router(broken, good, health={**SLOW_HEALTH, "failures_to_unhealthy": 99}) as client,
    ):
        for _ in range(3):
            assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert {line["replica"] for line in read_lines()} == {good.url}
    assert any(line["retries"] for line in read_lines())


async def test_a_stream_may_begin_in_pieces(open_router: OpenRouter) -> None:
    """A first event that arrives byte by byte is awaited and passes unchanged."""
    async with FakeReplica(pause_seconds=0.001) as replica, open_router(replica) as client:
        whole = replica.stream_bytes(with_usage=False)
        replica.pieces = [whole[place : place + 1] for place in range(150)] + [whole[150:]]
        assert (await client.post("/v1/completions", json=STREAM)).content == whole


async def test_the_breaker_opens(open_router: OpenRouter) -> None:
    """A replica that passes checks and fails requests gets no more of them."""
    breaker = {"consecutive_failures": 2, "open_seconds": 3600, "max_open_seconds": 3600}
    async with (
        FakeReplica(behaviour="refuse") as flaky,
        FakeReplica(delay_seconds=0.01) as good,
        open_router(flaky, good, health=FAST_HEALTH, breaker=breaker) as client,
    ):
        for _ in range(200):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
            if len(flaky.requests) == 2:
                break
        for _ in range(10):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert len(flaky.requests) == 2
        assert await metric(client, "breaker_state", replica=flaky.url) == 2
        assert await metric(client, "retries_total", reason="failed") == 2


async def test_the_breaker_heals(open_router: OpenRouter) -> None:
    """After a time one request is let through as a probe; its success closes the breaker."""
    breaker = {"consecutive_failures": 1, "open_seconds": 0.2}
    async with (
        FakeReplica(behaviour="refuse") as flaky,
        FakeReplica(delay_seconds=0.01) as good,
        open_router(flaky, good, health=FAST_HEALTH, breaker=breaker) as client,
    ):
        while not flaky.requests:
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        flaky.behaviour = "answer"
        for _ in range(200):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
            if await metric(client, "breaker_state", replica=flaky.url) == 0:
                break
            await asyncio.sleep(0.01)
        assert await metric(client, "breaker_state", replica=flaky.url) == 0
        assert len(flaky.requests) > 1


async def test_streams_that_break_open_the_breaker(open_router: OpenRouter) -> None:
    """What breaks after the first byte cannot be saved, but counts against its replica."""
    async with (
        FakeReplica(behaviour="die_mid_stream") as flaky,
        open_router(flaky, health=FAST_HEALTH, breaker={"consecutive_failures": 2}) as client,
    ):
        for _ in range(2):
            answer = await client.post("/v1/completions", json=STREAM)
            assert b'"error"' in answer.content
        assert await metric(client, "breaker_state", replica=flaky.url) == 2


async def test_the_last_replica_is_asked_in_doubt(open_router: OpenRouter) -> None:
    """Where every breaker is open a request is tried all the same, and its success closes one."""
    async with (
        FakeReplica(behaviour="refuse") as only,
        open_router(
            only, health=FAST_HEALTH, breaker={"consecutive_failures": 1}, retry=AT_ONCE
        ) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 502
        assert await metric(client, "breaker_state", replica=only.url) == 2
        only.behaviour = "answer"
        assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert await metric(client, "last_resorts_total") == 1
        assert await metric(client, "breaker_state", replica=only.url) == 0


REASON = b'data: {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}\n\n'


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(
    "ending",
    [b"", b"data: [DONE]\n\n", b"data: [DONE]\r\n\r\n", REASON + b'data: {"choices": []}\n\n'],
)
async def test_a_stream_without_its_last_event_is_a_broken_one(
    open_router: OpenRouter, ending: bytes, is_chunked: bool
) -> None:
    """However it is framed, a cut looks like an end; what the last events say tells them apart."""
    event = b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\n'
    body = event + ending
    framed = (
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else b"\r\n" + body
    )
    async with (
        raw_server(EVENTS + framed) as only,
        open_router(only, health=SLOW_HEALTH) as client,
    ):
        answer = await client.post("/v1/completions", json=STREAM)
    assert answer.content.startswith(event)
    if ending:
        assert answer.content == body
    else:
        assert b"without a finish_reason" in answer.content


async def test_a_busy_replica_is_left_alone(open_router: OpenRouter) -> None:
    """After a 429 a replica gets no request for as long as it asked, no longer than allowed."""
    busy = {"behaviour": "refuse", "status": 429, "refusal_headers": {"retry-after": "3600"}}
    async with (
        FakeReplica(**busy) as first,
        FakeReplica() as good,
        open_router(first, good, health=SLOW_HEALTH, retry={"max_busy_seconds": 0.5}) as client,
    ):
        for _ in range(6):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert len(first.requests) == 1
        await asyncio.sleep(0.6)
        first.behaviour = "answer"
        for _ in range(6):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
    assert len(first.requests) > 1


async def test_the_shortest_wait_is_told_when_all_are_busy(open_router: OpenRouter) -> None:
    """The answer is 429 with the smallest Retry-After, also while nobody is asked."""
    busy = {"behaviour": "refuse", "status": 429}
    async with (
        FakeReplica(**busy, refusal_headers={"retry-after": "9"}) as first,
        FakeReplica(**busy, refusal_headers={"retry-after": "4"}) as second,
        open_router(first, second, health=SLOW_HEALTH) as client,
    ):
        answers = [await client.post("/v1/completions", json=BODY) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [429, 429]
    assert {answer.headers["retry-after"] for answer in answers} == {"4"}
    assert answers[1].json()["error"]["type"] == "RateLimitError"
    assert len(first.requests) == len(second.requests) == 1


async def test_a_request_may_wait_for_a_busy_replica(open_router: OpenRouter) -> None:
    """With a wait allowed, a request is answered when the busy replica is asked again."""
    busy = {"behaviour": "refuse", "status": 429, "refusal_headers": {"retry-after": "0.3"}}
    async with (
        FakeReplica(**busy) as only,
        open_router(only, health=SLOW_HEALTH, retry={"busy_wait_seconds": 10}) as client,
    ):
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY))
        while not await metric(client, "failed_attempts_total", reason="busy"):
            await asyncio.sleep(0.01)
        only.behaviour = "answer"
        assert (await asking).status_code == 200
        assert await metric(client, "waits_total", result="found") == 1


async def test_another_model_answers_in_its_place(
    open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """Where none of a model's replicas can, its fallback does: its own name in an equal body."""
    async with (
        FakeReplica(behaviour="refuse") as broken,
        FakeReplica(model="small") as small,
        open_router(
            broken, small, fallbacks={"tiny": ["small"]}, health=SLOW_HEALTH, retry=AT_ONCE
        ) as client,
    ):
        body = b'{ "prompt" : "\\u0078" ,"model":"tiny", "n":1.0}'
        for _ in range(2):
            answer = await client.post("/v1/completions", content=body)
            assert answer.status_code == 200
        assert await metric(client, "fallbacks_total", model="tiny", to="small") == 2
    assert [request.body for request in small.requests] == [body.replace(b"tiny", b"small")] * 2
    assert [line["model"] for line in read_lines()] == ["small", "small"]


async def test_a_calm_fallback_is_asked_before_a_last_resort(open_router: OpenRouter) -> None:
    """It costs nothing of the budget of retries, of which there is none here."""
    retry = {"budget_fraction": 0, "budget_floor_per_second": 0, **AT_ONCE}
    breaker = {"consecutive_failures": 1, "open_seconds": 3600, "max_open_seconds": 3600}
    async with (
        FakeReplica(behaviour="refuse") as broken,
        FakeReplica(model="small") as small,
        open_router(
            broken,
            small,
            fallbacks={"tiny": ["small"]},
            health=SLOW_HEALTH,
            retry=retry,
            breaker=breaker,
        ) as client,
    ):
        statuses = [(await client.post("/v1/completions", json=BODY)).status_code for _ in range(4)]
    assert statuses == [502, 200, 200, 200]  # the first attempt of all could not be repeated
    assert len(broken.requests) == 1


async def test_a_replica_that_answers_nobody_gets_no_more(open_router: OpenRouter) -> None:
    """It takes whatever it is sent, as a stopped process does; checks would find out much later."""
    async with (
        FakeReplica(behaviour="hang") as stopped,
        FakeReplica() as good,
        open_router(
            stopped, good, health=SLOW_HEALTH, policy={"kind": "round_robin"}, retry=AT_ONCE
        ) as client,
    ):
        stuck = [
            asyncio.create_task(client.post("/v1/completions", json=BODY, timeout=60))
            for _ in range(32)
        ]
        while len(stopped.requests) < 16:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.1)
        stopped.is_healthy = False
        answers = [await client.post("/v1/completions", json=BODY) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len(stopped.requests) == 16
        for task in stuck:
            task.cancel()
        await asyncio.gather(*stuck, return_exceptions=True)


async def test_a_request_waits_for_a_replica_to_come_back(open_router: OpenRouter) -> None:
    """Where all fail, a request is answered by the first that a check finds well."""
    async with (
        FakeReplica(behaviour="refuse") as only,
        open_router(
            only, health={**FAST_HEALTH, "failures_to_unhealthy": 99}, retry={"wait_seconds": 20}
        ) as client,
    ):
        only.is_healthy = False
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY))
        while not only.requests:  # the fake has no event for this
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(only.requests) == 1
        only.is_healthy, only.behaviour = True, "answer"
        assert (await asking).status_code == 200


async def test_a_wait_does_not_depend_on_the_pace_of_checks(open_router: OpenRouter) -> None:
    """Those that wait have the replicas checked, and one that comes back answers within the wait."""
    only = FakeReplica(behaviour="die_before_first_byte")
    async with (
        only,
        open_router(only, health={"interval_seconds": 3600}, retry={"wait_seconds": 10}) as client,
    ):
        only.is_healthy = False
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY))
        while not only.requests:  # the fake has no event for this
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        only.behaviour, only.is_healthy = "answer", True
        assert (await asking).status_code == 200


async def test_no_more_wait_than_may(open_router: OpenRouter) -> None:
    """A request too many is answered at once."""
    async with (
        FakeReplica(is_healthy=False) as only,
        open_router(
            only, health=FAST_HEALTH, retry={"wait_seconds": 0.5, "max_waiting": 1}
        ) as client,
    ):
        answers = await asyncio.gather(
            *[client.post("/v1/completions", json=BODY) for _ in range(3)]
        )
        assert [answer.status_code for answer in answers] == [503] * 3
        assert await metric(client, "retries_refused_total", reason="waiting_full") == 2


async def test_the_budget_of_retries_is_kept(open_router: OpenRouter) -> None:
    """Without budget the first failure is the answer, and is counted so."""
    retry = {"budget_fraction": 0, "budget_floor_per_second": 0, **AT_ONCE}
    async with (
        FakeReplica(behaviour="refuse") as bad,
        FakeReplica(behaviour="refuse") as worse,
        open_router(bad, worse, health=SLOW_HEALTH, retry=retry) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 502
        assert await metric(client, "retries_refused_total", reason="budget") == 1
    assert len(bad.requests) + len(worse.requests) == 1


async def test_all_attempts_share_one_deadline(open_router: OpenRouter) -> None:
    """Three silent replicas cost one deadline, not three."""
    async with (
        FakeReplica(behaviour="hang") as a,
        FakeReplica(behaviour="hang") as b,
        FakeReplica(behaviour="hang") as c,
        open_router(
            a,
            b,
            c,
            health=SLOW_HEALTH,
            retry={"deadline_seconds": 0.5},
            timeouts={"first_byte_seconds": 0.3},
        ) as client,
    ):
        assert (await client.post("/v1/completions", json=BODY)).status_code == 504
    assert len(a.requests) + len(b.requests) + len(c.requests) == 2


async def test_requests_leave_a_replica_that_checks_find_down(open_router: OpenRouter) -> None:
    """A request without a first byte does not wait its time out on a dead replica."""
    async with (
        FakeReplica(behaviour="hang") as frozen,
        open_router(frozen, health=FAST_HEALTH) as client,
    ):
        asking = asyncio.create_task(client.post("/v1/completions", json=BODY))
        while not frozen.requests:  # the fake has no event for this
            await asyncio.sleep(0.01)
        frozen.is_healthy = False
        answer = await asking
        assert answer.status_code == 504
        assert "checks found it down" in answer.json()["error"]["message"]
        assert await metric(client, "failed_attempts_total", reason="left") == 1
