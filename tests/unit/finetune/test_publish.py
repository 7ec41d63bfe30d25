"""Publishing an adapter to an endpoint, over a fake transport."""

import json

import httpx
import numpy as np
import pytest

from finetune.adapters import (
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    Manifest,
    digest,
    read_adapter,
    weights_bytes,
    write_adapter,
)
from finetune.errors import AdapterFolderError, EndpointError, FinetuneError
from finetune.publish import publish
from finetune.upload import ANSWER_SECONDS
from planner.errors import DocumentError
from router.config import RouterConfig


@pytest.fixture
def adapter(tmp_path):
    """An adapter folder of one tensor."""
    weights = weights_bytes({"a": np.zeros((2, 3), np.float32)})
    manifest = Manifest(
        base_model="base",
        base_weights_sha256="0" * 64,
        adapter_sha256=digest(weights),
        rank=2,
        alpha=4,
        target_modules=("q_proj",),
        job="toy",
        rounds=1,
        num_refused_updates=0,
        clients=(),
    )
    folder = tmp_path / "adapter"
    write_adapter(folder, config={"r": 2}, weights=weights, manifest=manifest)
    return folder


def answering(respond):
    """Return a client whose requests `respond` answers."""
    return httpx.Client(transport=httpx.MockTransport(respond))


@pytest.mark.parametrize(
    "endpoint",
    [
        f"http://{end}"
        for end in ("127.0.0.1:1", "127.0.0.1:1/", "127.0.0.1:1/v1", "127.0.0.1:1/v1/")
    ],
)
def test_the_request_is_vllms(adapter, endpoint, monkeypatch):
    """Name and absolute path go to /v1/load_lora_adapter, whichever way the address is written."""
    requests = []

    def respond(request):
        requests.append(request)
        return httpx.Response(200, text="Success")

    monkeypatch.chdir(adapter.parent)
    with answering(respond) as client:
        relative = adapter.relative_to(adapter.parent)
        assert publish(relative, endpoint=endpoint, name="mine", client=client) == "mine"
    (request,) = requests
    assert str(request.url) == "http://127.0.0.1:1/v1/load_lora_adapter"
    assert "authorization" not in request.headers
    assert json.loads(request.content) == {"lora_name": "mine", "lora_path": str(adapter)}


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (httpx.Response(400, json={"error": {"message": "rank 64 is over 16"}}), "rank 64 is over"),
        (httpx.Response(404, text="Not Found"), "no such route"),
        (httpx.Response(422, json={"detail": "bad body"}), "bad body"),
        (httpx.Response(500, text="boom"), "endpoint's log"),
    ],
)
def test_a_refusal_is_told_in_one_line(adapter, response, reason):
    """Status, the endpoint's own reason and the name stand in the message."""
    with answering(lambda request: response) as client, pytest.raises(EndpointError) as caught:
        publish(adapter, endpoint="http://[::1]:1", name="mine", client=client)
    assert reason in str(caught.value)
    assert f"HTTP {response.status_code}" in str(caught.value)
    assert caught.value.exit_code == 1


def uploading(requests, *, limit=1 << 30, status=200, told=None):
    """Return a client of an endpoint that lists its adapters, then answers the upload so."""

    def respond(request):
        requests.append(request)
        if request.method == "GET":
            return httpx.Response(200, json={"data": [], "max_upload_bytes": limit})
        return httpx.Response(status, json=told or {})

    return answering(respond)


@pytest.mark.parametrize(
    ("endpoint", "is_sent"), [("http://h:1", None), ("http://localhost:1", True)]
)
def test_files_go_to_another_machine(adapter, endpoint, is_sent):
    """All three are in one form whose length is known, with the key, and the sending is watched."""
    requests, seen = [], []
    with uploading(requests) as client:
        publish(
            adapter,
            endpoint=endpoint,
            name="mine",
            is_sent=is_sent,
            model="tiny",
            key="s3cret",
            watch=lambda sent, total: seen.append((sent, total)),
            client=client,
        )
    listing, sent = requests
    assert (listing.method, listing.url.path) == ("GET", "/admin/adapters")
    assert (sent.method, sent.url.path) == ("POST", "/admin/adapters/mine")
    for request in requests:
        assert request.url.query == b"model=tiny"
        assert request.headers["authorization"] == "Bearer s3cret"
    content = sent.content
    assert sent.headers["content-length"] == str(len(content))
    for name in (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE):
        assert f'filename="{name}"'.encode() in content
        assert (adapter / name).read_bytes() in content
    total = sum(
        (adapter / name).stat().st_size for name in (CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE)
    )
    assert seen[-1] == (total, total)
    assert [sent for sent, _ in seen] == sorted(sent for sent, _ in seen)


@pytest.mark.parametrize(
    ("limit", "status", "told", "words"),
    [
        (10, 200, None, r"takes uploads of 10 bytes, the adapter has \d+; start it with a larger"),
        (None, 200, None, "takes no uploads; start it with --admin-key-file"),
        (1 << 30, 413, {"error": {"message": "above 5 bytes"}}, "HTTP 413.*above 5 bytes"),
        (1 << 30, 502, {"error": {"message": "1 of 2 replicas failed"}}, "1 of 2 replicas failed"),
    ],
)
def test_an_upload_that_is_not_taken_is_one_line(adapter, limit, status, told, words):
    """What the endpoint would not take is not sent; what it refuses is told with its reason."""
    requests = []
    with (
        uploading(requests, limit=limit, status=status, told=told) as client,
        pytest.raises(EndpointError, match=words),
    ):
        publish(adapter, endpoint="http://h:1", name="mine", client=client)
    assert len(requests) == (2 if status != 200 else 1)


def test_a_refused_key_is_told_before_anything_is_sent(adapter, caplog):
    """The line says where a key comes from; the key itself stands nowhere."""
    requests = []

    def respond(request):
        requests.append(request)
        return httpx.Response(403, json={"error": {"message": "this needs an admin key"}})

    with answering(respond) as client, pytest.raises(EndpointError, match="MOTLEY_API_KEY") as told:
        publish(adapter, endpoint="http://h:1", name="mine", key="s3cret", client=client)
    assert len(requests) == 1
    assert "s3cret" not in str(told.value) + caplog.text


def test_a_routers_report_is_waited_for():
    """A router that gives up on a replica still says which others have the adapter."""
    assert RouterConfig.model_fields["timeouts"].default.first_byte_seconds < ANSWER_SECONDS


def test_a_server_without_uploads_is_told(adapter):
    """Plain vLLM has no such path; the line names the other way."""
    with (
        answering(lambda request: httpx.Response(404)) as client,
        pytest.raises(EndpointError, match=r"takes no uploads .*--by-path"),
    ):
        publish(adapter, endpoint="http://h:1", name="mine", client=client)


@pytest.mark.parametrize("failure", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow")])
def test_an_unreachable_endpoint_is_named(adapter, failure):
    """A connection that fails or hangs names the address and what to check."""

    def respond(request):
        raise failure

    with (
        answering(respond) as client,
        pytest.raises(EndpointError, match=r"http://h:1: .*check that it is up"),
    ):
        publish(adapter, endpoint="http://h:1", name="mine", client=client)


@pytest.mark.parametrize("endpoint", ["localhost:8000", "ftp://h", "http://", ""])
def test_an_address_that_is_none_is_refused(adapter, endpoint):
    """Anything but an HTTP address is the caller's mistake."""
    with pytest.raises(FinetuneError, match="is no address"):
        publish(adapter, endpoint=endpoint, name="mine")


@pytest.mark.parametrize("name", ["a b/c", "", "-x", "a\nb", "x" * 65])
def test_a_name_that_is_none_is_refused(adapter, name):
    """A model name must be safe in log lines, file names and addresses."""
    with pytest.raises(FinetuneError, match="is no model name"):
        publish(adapter, endpoint="http://h:1", name=name)


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE, MANIFEST_FILE])
def test_an_incomplete_folder_is_refused(adapter, name):
    """The missing file is named before anything is sent."""
    (adapter / name).unlink()
    with pytest.raises(AdapterFolderError, match=f"holds no {name}"):
        read_adapter(adapter)


def test_changed_weights_are_refused(adapter):
    """Weights that are not those of the manifest do not reach an endpoint."""
    path = adapter / WEIGHTS_FILE
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(AdapterFolderError, match="not the file the manifest describes"):
        read_adapter(adapter)


def test_an_unknown_manifest_version_is_refused(adapter):
    """A manifest of another form is not guessed at."""
    path = adapter / MANIFEST_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(DocumentError, match="schema_version"):
        read_adapter(adapter)


def test_a_failed_write_leaves_nothing(adapter):
    """When the folder cannot take its place, the temporary one is removed."""
    manifest = read_adapter(adapter)
    before = sorted(adapter.parent.iterdir())
    with pytest.raises(AdapterFolderError, match=r"cannot be written .*not empty"):
        write_adapter(adapter, config={}, weights=b"", manifest=manifest)
    assert sorted(adapter.parent.iterdir()) == before
