"""Whose fault a 500 is: the replica's, if another one answers the same request."""

from fakes import FakeReplica
from router_under_test import OpenRouter, ReadLines, metric

BODY = {"model": "tiny", "prompt": "x"}
SLOW_HEALTH = {"interval_seconds": 3600}


async def test_a_500_is_blamed_on_the_replica_if_another_one_answers(
    open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """A sick replica's 500 costs a retry, and counts for its breaker."""
    async with (
        FakeReplica(behaviour="refuse", status=500) as sick,
        FakeReplica() as good,
        open_router(sick, good, health=SLOW_HEALTH, breaker={"consecutive_failures": 1}) as client,
    ):
        for _ in range(3):
            assert (await client.post("/v1/completions", json=BODY)).status_code == 200
        assert await metric(client, "breaker_state", replica=sick.url) == 2
        assert await metric(client, "failed_attempts_total", reason="internal_error") == 1
    assert len(sick.requests) == 1
    assert {line["replica"] for line in read_lines()} == {good.url}


async def test_a_500_of_every_replica_is_the_requests_own_fault(open_router: OpenRouter) -> None:
    """Each is asked once; the first answer passes and nobody is blamed."""
    async with (
        FakeReplica(behaviour="refuse", status=500) as a,
        FakeReplica(behaviour="refuse", status=500) as b,
        FakeReplica(behaviour="refuse", status=500) as c,
        open_router(a, b, c, breaker={"consecutive_failures": 1}) as client,
    ):
        answer = await client.post("/v1/completions", json=BODY)
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "scripted"
        assert [len(each.requests) for each in (a, b, c)] == [1, 1, 1]
        for each in (a, b, c):
            assert await metric(client, "breaker_state", replica=each.url) == 0


async def test_one_replica_that_is_well_answers_for_several_that_say_500(
    open_router: OpenRouter,
) -> None:
    """However many are sick, the one that could have served does."""
    async with (
        FakeReplica(behaviour="refuse", status=500) as a,
        FakeReplica(behaviour="refuse", status=500) as b,
        FakeReplica(behaviour="refuse", status=500) as c,
        FakeReplica() as well,
        open_router(a, b, c, well, health=SLOW_HEALTH) as client,
    ):
        answers = [await client.post("/v1/completions", json=BODY) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 8
    assert all(1 <= len(each.requests) <= 3 for each in (a, b, c))  # then the breaker is open
