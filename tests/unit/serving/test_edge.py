"""The edge of the endpoint: every failure, wherever it happens, ends as OpenAI's error."""

import json

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from serving.edge import EndpointEdge, Gate
from serving.errors import UnavailableError, error_body
from serving.keys import KeyRing

SECRET = "the patient's name"


async def fine(_request: Request) -> Response:
    return PlainTextResponse("fine")


async def broken(_request: Request) -> Response:
    raise RuntimeError(SECRET)


async def left(_request: Request) -> Response:
    raise ClientDisconnect


async def breaks_midway(request: Request) -> Response:
    async def events():
        yield "data: {}\n\n"
        raise RuntimeError(SECRET)

    return StreamingResponse(events(), media_type=request.query_params["type"])


async def fails_midway(request: Request) -> Response:
    async def events():
        yield "data: {}\n\n"
        content = error_body(UnavailableError("gone; retry later"))[1]
        yield f"{request.query_params.get('head', '')}data: {json.dumps(content, separators=(',', ':'))}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
async def client(gate):
    paths = {
        "/v1/fine": fine,
        "/v1/broken": broken,
        "/v1/left": left,
        "/v1/fails": fails_midway,
        "/v1/midway": breaks_midway,
    }
    paths |= {"/health": fine, "/v1/load_lora_adapter": fine, "/admin/adapters/a": fine}
    app = Starlette(
        routes=[Route(path, handler) for path, handler in paths.items()],
        middleware=[Middleware(EndpointEdge, gate=gate, keys=KeyRing(["user"], ["admin"]))],
    )
    headers = {"authorization": "Bearer user"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers
    ) as client:
        yield client


async def test_an_unforeseen_failure_tells_nobody_what_it_held(client, gate, caplog):
    """The client gets a plain sentence, the log the type and the place, neither the words."""
    answer = await client.get("/v1/broken", headers={"x-request-id": "r-1"})
    assert answer.status_code == 500
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"] == "r-1"
    assert "request_id=r-1 type=RuntimeError" in caplog.text
    assert "in broken" in caplog.text
    assert SECRET not in caplog.text + answer.text
    assert gate.errors[500] == 1


async def test_a_failure_in_a_stream_is_its_last_event(client, gate, caplog):
    """What has been sent stays sent; then comes the error, and no end that would look complete."""
    answer = await client.get("/v1/midway", params={"type": "text/event-stream"})
    first, last = [event for event in answer.text.split("\n\n") if event]
    assert (answer.status_code, first) == (200, "data: {}")
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == 500
    assert SECRET not in caplog.text + answer.text
    assert gate.errors[500] == 1


async def test_a_stream_that_ends_in_an_error_is_counted(client, gate):
    """An error that the application writes as an event itself counts under its status."""
    await client.get("/v1/fails")
    assert gate.errors == {503: 1}
    await client.get("/v1/fails", params={"head": "event: error\n"})
    assert gate.errors == {503: 2}


async def test_a_client_that_left_is_no_failure(client, gate, caplog):
    """Nothing is counted, nothing is logged as an error, and the place is free again."""
    transport = client._transport
    scope = {"type": "http", "path": "/v1/left", "method": "GET", "query_string": b""}
    scope["headers"] = [(b"authorization", b"Bearer user")]
    sent = []

    async def send(message):
        sent.append(message)

    await transport.app(scope, None, send)
    assert sent == []
    assert not gate.errors
    assert gate.num_running == 0
    assert not caplog.records


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/admin/adapters/a", "/admin"])
async def test_admin_paths_need_an_admin(client, path):
    """A user's key is refused, an admin's gets in."""
    assert (await client.get(path)).status_code == 403
    answer = await client.get(path, headers={"authorization": "Bearer admin"})
    assert answer.status_code == (404 if path == "/admin" else 200)


@pytest.mark.parametrize(
    ("headers", "is_refused"),
    [
        ({"sec-fetch-site": "cross-site"}, True),
        ({"sec-fetch-site": "same-site"}, True),
        ({"origin": "https://evil.example"}, True),
        ({"origin": "http://test:81"}, True),
        ({"origin": "null"}, True),
        ({"sec-fetch-site": "same-origin", "origin": "http://test"}, False),
        ({"sec-fetch-site": "none"}, False),
        ({}, False),
    ],
    ids=str,
)
async def test_pages_of_other_sites_command_nothing(gate, headers, is_refused):
    """A browser may post a form anywhere: where no key is asked for, its origin decides."""

    async def app(scope, receive, send):
        await PlainTextResponse("fine")(scope, receive, send)

    transport = httpx.ASGITransport(app=EndpointEdge(app, gate=gate, keys=KeyRing()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as browser:
        for path in ("/admin/adapters/a", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            answer = await browser.post(path, headers=headers)
            assert answer.status_code == (403 if is_refused else 200)
        assert (await browser.post("/v1/completions", headers=headers)).status_code == 200


async def test_probes_need_no_key(client):
    """Health is asked by balancers that hold none; everything else, unknown paths too, needs one."""
    nobody = {"authorization": ""}
    assert (await client.get("/health", headers=nobody)).status_code == 200
    for path in ("/v1/fine", "/nowhere", "/openapi.json"):
        answer = await client.get(path, headers=nobody)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_while_draining_new_requests_are_sent_elsewhere(client, gate):
    """503 with a hint when to come back; probes still get through."""
    gate.is_draining = True
    answer = await client.get("/v1/fine")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert (await client.get("/health")).status_code == 200


async def test_running_requests_are_counted(client, gate):
    """The count is what a drain waits for."""
    seen = []

    async def app(scope, receive, send):
        seen.append(gate.num_running)
        raise UnavailableError("none; retry later")

    transport = httpx.ASGITransport(app=EndpointEdge(app, gate=gate, keys=KeyRing()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as other:
        assert (await other.get("/v1/fine")).status_code == 503
        assert (await other.get("/health")).status_code == 503
    assert seen == [1, 0]
    assert gate.num_running == 0
