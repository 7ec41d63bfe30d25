"""Bytes pass as they came, but for the one usage chunk nobody asked for."""

import httpx
import pytest
from fakes import FakeReplica
from router_under_test import OpenRouter, ReadLines

STREAM = {"model": "tiny", "messages": [{"role": "user", "content": "é"}], "stream": True}
ASKING = {**STREAM, "stream_options": {"include_usage": True}}


async def streamed(client: httpx.AsyncClient, body: object) -> bytes:
    """Return the raw bytes of a streamed answer."""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return b"".join([piece async for piece in response.aiter_raw()])


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("null_usage", [False, True])
async def test_all_bytes_but_the_last_usage_chunk(
    open_router: OpenRouter, read_lines: ReadLines, line_end: str, null_usage: bool
) -> None:
    """A client that did not ask for usage gets every byte but the usage chunk's."""
    async with FakeReplica(line_end=line_end, null_usage=null_usage, words=("é", "b")) as replica:
        sent = replica.stream_bytes(with_usage=True)
        report = sent.split((line_end * 2).encode())[-3] + (line_end * 2).encode()
        assert b'"completion_tokens"' in report
        async with open_router(replica) as client:
            assert await streamed(client, STREAM) == sent.replace(report, b"")
            assert await streamed(client, ASKING) == sent
    assert [line["completion_tokens"] for line in read_lines()] == [2, 2]
    assert [line["prompt_tokens"] for line in read_lines()] == [7, 7]


async def test_bytes_one_at_a_time(open_router: OpenRouter) -> None:
    """A replica that sends single bytes changes nothing."""
    async with FakeReplica(words=("a",), pause_seconds=0.0002) as replica:
        sent = replica.stream_bytes(with_usage=True)
        replica.pieces = [bytes([byte]) for byte in sent]
        async with open_router(replica) as client:
            assert await streamed(client, ASKING) == sent
            whole = await streamed(client, STREAM)
        assert whole == replica.stream_bytes(with_usage=False)


async def test_replica_that_ignores_include_usage(
    open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """Without a usage chunk every byte passes and the log says that counts are unknown."""
    async with FakeReplica(honours_usage=False) as replica, open_router(replica) as client:
        assert await streamed(client, STREAM) == replica.stream_bytes(with_usage=False)
    assert read_lines()[0]["completion_tokens"] is None


async def test_body_and_headers_reach_the_replica(open_router: OpenRouter) -> None:
    """The body arrives as sent, but for the usage option; end-to-end headers pass both ways."""
    plain = b'{ "model":"tiny",  "temperature": 0.10 }'
    asking = b'{"model":"tiny","stream":true }'
    headers = {
        "authorization": "Bearer k",
        "x-request-id": "mine-1",
        "connection": "x-hop",
        "x-hop": "1",
    }
    async with FakeReplica() as replica, open_router(replica) as client:
        path = "/v1/chat/completions?beta=1"
        await client.post(path, content=plain, headers=headers)
        answer = await client.post(path, content=asking, headers=headers)
    assert replica.requests[0].body == plain
    assert replica.requests[1].body == (
        b'{"stream_options":{"include_usage":true},"model":"tiny","stream":true }'
    )
    sent = replica.requests[0].headers
    assert sent["authorization"] == "Bearer k"
    assert sent["x-request-id"] == "mine-1"
    assert sent["accept-encoding"] == "identity"
    assert "x-hop" not in sent
    assert answer.headers["x-fake"] == "kept"
    assert answer.headers.get_list("x-request-id") == ["mine-1"]


async def test_answers_not_streamed(open_router: OpenRouter, read_lines: ReadLines) -> None:
    """A whole answer passes with its counts logged, on both completion paths."""
    async with FakeReplica() as replica, open_router(replica) as client:
        for path in ("/v1/chat/completions", "/v1/completions"):
            answer = await client.post(path, json={"model": "tiny", "prompt": "x"})
            assert answer.json()["usage"] == replica.usage
            assert answer.headers["content-type"] == "application/json"
    assert [request.path for request in replica.requests] == [
        "/v1/chat/completions",
        "/v1/completions",
    ]
    assert [line["completion_tokens"] for line in read_lines()] == [5, 5]


async def test_large_bodies_pass(open_router: OpenRouter) -> None:
    """A body of several MiB reaches the replica whole."""
    body = {"model": "tiny", "prompt": "x" * 3_000_000}
    async with FakeReplica() as replica, open_router(replica) as client:
        assert (await client.post("/v1/completions", json=body)).status_code == 200
    assert replica.requests[0].fields == body
