"""Where uploads are kept, and who may send any."""

from pathlib import Path

import httpx
import pytest
from remembering_engine import RememberingEngine

from serving.adapter_store import AdapterStore
from serving.endpoint_config import EndpointConfig
from serving.keys import KeyRing
from serving.operations import build_operations
from serving.upload_folder import UploadFolder


@pytest.mark.parametrize(
    ("host", "keys", "given", "is_taken"),
    [
        ("127.0.0.1", KeyRing(), False, True),
        ("0.0.0.0", KeyRing(), False, False),
        ("0.0.0.0", KeyRing(["user"]), False, True),
        ("0.0.0.0", KeyRing(), True, True),
    ],
)
def test_strangers_without_keys_send_nothing(tmp_path, monkeypatch, host, keys, given, is_taken):
    """Beyond loopback uploads need keys, or a folder named for them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = EndpointConfig(adapter_upload_dir=tmp_path if given else None)
    with AdapterStore.opened(config, keys, host) as store:
        assert (store.most_bytes is not None) == is_taken
    assert not (tmp_path / "cache").exists()


def test_an_endpoint_of_a_user_without_a_home_starts(monkeypatch, caplog):
    """It takes no uploads, and says why."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody at all").expanduser())
    with AdapterStore.opened(EndpointConfig(), KeyRing(), "127.0.0.1") as store:
        assert store.most_bytes is None
    assert "name --adapter-upload-dir" in caplog.text


def test_what_a_killed_endpoint_left_is_removed(tmp_path):
    """The next endpoint clears folders that nobody holds, and no others."""
    (tmp_path / "endpoint-left").mkdir()
    (tmp_path / "endpoint-left" / "weights").write_text("x")
    (tmp_path / "mine").mkdir()
    first, second = UploadFolder(tmp_path), UploadFolder(tmp_path)
    folders = {first.path(), second.path()}
    assert set(tmp_path.iterdir()) == folders | {tmp_path / "mine"}
    first.close()
    second.close()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


async def test_an_endpoint_that_takes_no_uploads_says_so():
    """The line names the options that change it."""
    transport = httpx.ASGITransport(app=build_operations(RememberingEngine(), "base"))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/admin/adapters/med", content=b"")
    assert answer.status_code == 403
    assert "--adapter-upload-dir" in answer.json()["error"]["message"]
