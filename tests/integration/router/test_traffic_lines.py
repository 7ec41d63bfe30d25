"""One line a request, with true counts and no text."""

import asyncio
import time

from fakes import FakeReplica
from router_under_test import OpenRouter, ReadLines

FIELDS = {
    "schema_version": int,
    "arrival_unix_seconds": float,
    "request_id": str,
    "tenant": type(None),
    "model": str,
    "replica": str,
    "stream": bool,
    "prompt_tokens": int,
    "completion_tokens": int,
    "text_pieces": int,
    "ttft_seconds": float,
    "tpot_seconds": float,
    "duration_seconds": float,
    "status": int,
    "retries": int,
}


async def test_line_of_a_streamed_request(open_router: OpenRouter, read_lines: ReadLines) -> None:
    """The line has every field with its type; times fit what the replica did; no text is in it."""
    body = {"model": "tiny", "prompt": "PRIVATE", "stream": True}
    before = time.time()
    async with (
        FakeReplica(delay_seconds=0.2, pause_seconds=0.05, words=("PRIVATE",) * 5) as replica,
        open_router(replica) as client,
    ):
        await client.post("/v1/completions", json=body, headers={"x-request-id": "id-1"})
    (line,) = read_lines()
    assert {name: type(value) for name, value in line.items()} == FIELDS
    assert line["request_id"] == "id-1"
    assert line["replica"] == replica.url
    assert (line["prompt_tokens"], line["completion_tokens"], line["text_pieces"]) == (7, 5, 5)
    assert before <= line["arrival_unix_seconds"] <= time.time()
    assert 0.2 <= line["ttft_seconds"] <= line["duration_seconds"]
    assert line["tpot_seconds"] >= 0.05
    assert "PRIVATE" not in repr(line)


async def test_concurrent_requests_write_whole_lines(
    open_router: OpenRouter, read_lines: ReadLines
) -> None:
    """Every request has exactly one line with its own id."""
    ids = {f"id-{index}" for index in range(100)}
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with FakeReplica() as replica, open_router(replica) as client:
        await asyncio.gather(
            *[
                client.post("/v1/completions", json=body, headers={"x-request-id": each})
                for each in ids
            ]
        )
    lines = read_lines()
    assert len(lines) == 100
    assert {line["request_id"] for line in lines} == ids


async def test_line_of_a_client_that_leaves(open_router: OpenRouter, read_lines: ReadLines) -> None:
    """The counts nobody reported are null; the pieces of text that were sent are counted."""
    body = {"model": "tiny", "prompt": "x", "stream": True}
    async with (
        FakeReplica(pause_seconds=0.05, words=("w",) * 50) as replica,
        open_router(replica) as client,
    ):
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            async for text in answer.aiter_lines():
                if '"w"' in text:
                    break
        while not read_lines():  # the line follows the answer's end
            await asyncio.sleep(0.01)
    (line,) = read_lines()
    assert (line["status"], line["prompt_tokens"], line["completion_tokens"]) == (499, None, None)
    assert 1 <= line["text_pieces"] < 50
