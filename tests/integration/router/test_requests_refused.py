"""What the router itself refuses, in OpenAI's shape."""

import asyncio
import time

import httpx
import pytest
from fakes import FakeReplica
from router_under_test import OpenRouter, ReadLines

CHAT = "/v1/chat/completions"


def problem(answer: httpx.Response) -> tuple[int, str, str | None, str]:
    """Return status, type, param and message of an error answer, its shape checked."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == answer.status_code
    assert "\n" not in error["message"]
    assert answer.headers["x-request-id"]
    return answer.status_code, error["type"], error["param"], error["message"]


@pytest.mark.parametrize(
    ("content", "status", "kind", "param", "words"),
    [
        (b"{", 400, "BadRequestError", None, "not valid JSON"),
        (b"[]", 400, "BadRequestError", None, "not a JSON object"),
        (b"{}", 400, "BadRequestError", "model", "is required"),
        (b'{"model": 3}', 400, "BadRequestError", "model", "must be a non-empty string"),
        (b'{"model": "secret"}', 404, "NotFoundError", "model", "use one of: tiny"),
        (b" " * 2000, 413, "RequestTooLargeError", None, "larger than 1000 bytes"),
    ],
)
async def test_bad_bodies(
    open_router: OpenRouter,
    read_lines: ReadLines,
    content: bytes,
    status: int,
    kind: str,
    param: str | None,
    words: str,
) -> None:
    """A bad body gets one clear sentence, reaches no replica, and is logged without its text."""
    async with FakeReplica() as replica, open_router(replica, max_body_bytes=1000) as client:
        answer = await client.post(CHAT, content=content)
    told = problem(answer)
    assert told[:3] == (status, kind, param)
    assert words in told[3]
    assert replica.requests == []
    (line,) = read_lines()
    assert (line["status"], line["model"], line["replica"]) == (status, None, None)


async def test_a_large_body_does_not_stall_others(open_router: OpenRouter) -> None:
    """The event loop gets its turns while a body of many token ids is read."""
    content = b'{"model": "none", "prompt": [' + b"123456," * 1_000_000 + b"1]}"
    gaps_seconds: list[float] = []

    async def take_turns() -> None:
        before = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            gaps_seconds.append(time.perf_counter() - before)
            before += gaps_seconds[-1]

    async with FakeReplica() as replica, open_router(replica) as client:
        turns = asyncio.create_task(take_turns())
        answer = await client.post("/v1/completions", content=content)
        turns.cancel()
    assert answer.status_code == 404
    assert max(gaps_seconds) < sum(gaps_seconds) / 3


async def test_body_without_a_length_is_bounded(open_router: OpenRouter) -> None:
    """A chunked body is refused as soon as it is over the limit."""

    async def pieces() -> object:
        for _ in range(100):
            yield b" " * 100

    async with FakeReplica() as replica, open_router(replica, max_body_bytes=1000) as client:
        answer = await client.post(CHAT, content=pieces())
        assert problem(answer)[0] == 413
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/models/", "/v1/models/none"])
async def test_unknown_paths(open_router: OpenRouter, path: str) -> None:
    """An unknown path or model is a 404 in OpenAI's shape."""
    async with FakeReplica() as replica, open_router(replica) as client:
        assert problem(await client.get(path))[:2] == (404, "NotFoundError")


async def test_wrong_method(open_router: OpenRouter) -> None:
    """A known path with another method is a 405 that names the right one."""
    async with FakeReplica() as replica, open_router(replica) as client:
        answer = await client.get(CHAT)
        assert problem(answer)[:2] == (405, "MethodNotAllowedError")
        assert answer.headers["allow"] == "POST"
        assert problem(await client.delete("/v1/models"))[0] == 405


async def test_request_ids(open_router: OpenRouter) -> None:
    """A usable id of the client comes back; any other is replaced."""
    async with FakeReplica() as replica, open_router(replica) as client:
        for path in ("/health", "/none"):
            answer = await client.get(path, headers={"x-request-id": "abc-1"})
            assert answer.headers["x-request-id"] == "abc-1"
            answer = await client.get(path, headers={"x-request-id": "a b" * 200})
            assert answer.headers["x-request-id"].startswith("req-")
