"""Fetching a config.json, from a hub on loopback."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from planner.errors import HubError, UnknownNameError
from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.find_model import find_model
from planner.hardware.hub_config import fetch_config

CATALOGUE = built_in_catalogue()
CONFIG = dict(CATALOGUE.models[0].config)


class _Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = self.server.answers.get(self.path, (404, "not found"))
        self.server.tokens.append(self.headers.get("Authorization"))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    """Return a hub whose `answers` map a path to status and body."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.answers, server.tokens = {}, []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_a_hub_id_that_no_list_holds_is_fetched(hub, monkeypatch, tmp_path):
    """The sizes are those of the config.json that the hub answers, and the token is sent."""
    hub.answers["/someone/new-model/resolve/main/config.json"] = (200, json.dumps(CONFIG))
    monkeypatch.setenv("HF_TOKEN", "secret")
    found = find_model("someone/new-model", CATALOGUE, hub_cache=tmp_path)
    known = find_model(CATALOGUE.models[0].name, CATALOGUE, hub_cache=tmp_path)
    assert found.name == "someone/new-model"
    assert found.total_parameters == known.total_parameters
    assert hub.tokens == ["Bearer secret"]


def test_a_model_the_hub_does_not_have_is_unknown(hub, tmp_path):
    """The error names the nearest models that are known."""
    with pytest.raises(UnknownNameError, match="no model is called someone/nothing"):
        find_model("someone/nothing", CATALOGUE, hub_cache=tmp_path)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(401, "", "HF_TOKEN"), (500, "", "answers 500"), (200, "<html>", "no config.json")],
)
def test_an_answer_that_is_no_config_is_said_so(hub, status, body, words):
    """Refusals, failures and pages in the file's place each get their sentence."""
    hub.answers["/a/b/resolve/main/config.json"] = (status, body)
    with pytest.raises(HubError, match=words):
        fetch_config("a/b")


def test_a_hub_out_of_reach_is_an_error(hub, monkeypatch):
    """Without the hub the message asks for a folder."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError, match="cannot be reached"):
        fetch_config("a/b")


def test_offline_nothing_is_asked(hub, monkeypatch):
    """HF_HUB_OFFLINE keeps the network quiet."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch_config("a/b") is None
    assert hub.tokens == []
