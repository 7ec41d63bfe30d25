"""Which requests go past the routing, and what becomes of a bug there."""

import json

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.exchange import DataPath, RequestIds, send_whole


async def no_body() -> Message:
    """Return an empty body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def others(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer everything else."""
    await send_whole(send, 200, [], b"others")


async def run(method: str, path: str, completions: ASGIApp, sent: list[Message]) -> None:
    """Run one request; what is sent goes to `sent`."""

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": []}
    await RequestIds(DataPath(completions, others))(scope, no_body, send)


async def completions(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer."""
    await send_whole(send, 200, [], b"completions")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_completions_alone_go_past(path: str) -> None:
    """Other paths and methods are everything else's."""
    asked = [("POST", path), ("GET", path), ("POST", path + "/")]
    bodies = []
    for method, target in asked:
        sent: list[Message] = []
        await run(method, target, completions, sent)
        bodies.append(sent[-1]["body"])
    assert bodies == [b"completions", b"others", b"others"]


async def test_a_bug_is_answered_in_openai_words() -> None:
    """It is raised again, so that its traceback reaches the log."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("bug")

    sent: list[Message] = []
    with pytest.raises(KeyError):
        await run("POST", "/v1/completions", broken, sent)
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"]["type"] == "InternalServerError"


async def test_a_bug_after_the_head_is_raised_alone() -> None:
    """No second answer is begun."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("bug")

    sent: list[Message] = []
    with pytest.raises(KeyError):
        await run("POST", "/v1/completions", broken, sent)
    assert [message["type"] for message in sent] == ["http.response.start"]
