"""`motley serve` as a process when things go wrong: a killed engine, a stop, strangers, TLS."""

import datetime
import json
import os
import re
import signal
import ssl
import threading
import time
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from lora_folders import make_adapter

SECRET = "Mr Zebulon Quigley has influenza"
USER, ADMIN = "sk-user-7f3a", "sk-admin-9c1d"
NO_DRAFT = ["--no-draft"]


def headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def completion(**fields) -> dict:
    return {"model": "tiny", "prompt": SECRET, "max_tokens": 8, "temperature": 0} | fields


def long_stream(**fields) -> dict:
    return completion(max_tokens=900, ignore_eos=True, stream=True, **fields)


def wait_for_status(url: str, status: int, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while (found := httpx.get(f"{url}/health").status_code) != status:
        assert time.monotonic() < deadline, f"/health stays {found}"
        time.sleep(0.02)


def stream(url: str, body: dict, started: threading.Event) -> list[str]:
    """Return the data of a stream's events, once it has ended."""
    events = []
    with httpx.stream("POST", f"{url}/v1/completions", json=body, headers=headers(USER)) as answer:
        for line in answer.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
                started.set()
    return events


class Streaming:
    """A stream read in a thread of its own, once it has begun."""

    def __init__(self, url: str, body: dict) -> None:
        self.events: list[str] = []
        started = threading.Event()

        def read() -> None:
            self.events = stream(url, body, started)

        self._thread = threading.Thread(target=read)
        self._thread.start()
        assert started.wait(60)

    def finish(self) -> list[str]:
        self._thread.join(150)
        assert not self._thread.is_alive()
        return self.events


@pytest.fixture
def guarded(start_replica, tiny_family, tmp_path) -> tuple:
    """Return a replica with keys and an allowed folder of adapters: server, address, log."""
    options = list(NO_DRAFT)
    for role, key in (("api", USER), ("admin", ADMIN)):
        path = tmp_path / f"{role}-keys"
        path.write_text(f"{key}\n")
        path.chmod(0o600)
        options += [f"--{role}-key-file", str(path)]
    for folder in ("allowed", "elsewhere"):
        make_adapter(tiny_family / "target", tmp_path / folder / "mine")
    options += ["--adapter-root", str(tmp_path / "allowed"), "--drain-timeout", "200"]
    server, url = start_replica("guarded", *options)
    return server, url, tmp_path / "guarded.log"


def load(url: str, key: str, folder: Path) -> int:
    body = {"lora_name": "mine", "lora_path": str(folder)}
    return httpx.post(f"{url}/v1/load_lora_adapter", json=body, headers=headers(key)).status_code


def check_keys_and_folders(url: str, folder: Path) -> None:
    """A user's key answers, only an admin's loads, and only from the allowed folder."""
    ask = f"{url}/v1/completions"
    assert httpx.get(f"{url}/health").status_code == 200
    assert httpx.post(ask, json=completion()).status_code == 401
    assert httpx.post(ask, json=completion(), headers=headers("sk-x")).status_code == 401
    assert httpx.post(ask, json=completion(), headers=headers(USER)).status_code == 200
    assert load(url, USER, folder / "allowed/mine") == 403
    assert load(url, ADMIN, folder / "elsewhere/mine") == 403
    assert load(url, ADMIN, folder / "allowed/../elsewhere/mine") == 403
    assert load(url, ADMIN, folder / "allowed/mine") == 200
    for fields in ({"temperature": -1}, {"model": SECRET}, {"tools": [SECRET]}, {"stop": {}}):
        answer = httpx.post(ask, json=completion(**fields), headers=headers(USER))
        assert 400 <= answer.status_code < 500


def kill_engine(url: str, log: Path) -> None:
    """Kill the engine under a stream; wait until it serves again."""
    running = Streaming(url, long_stream(model="mine"))
    os.kill(int(re.findall(r"engine process started pid=(\d+)", log.read_text())[-1]), 9)
    assert json.loads(running.finish()[-1])["error"]["code"] == 503
    down = httpx.get(f"{url}/health")
    assert (down.status_code, down.headers["retry-after"]) == (503, "1")
    refused = httpx.post(f"{url}/v1/completions", json=completion(), headers=headers(USER))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"]["type"] == "ServiceUnavailableError"
    wait_for_status(url, 200)
    assert 'motley:engine_restarts_total{model_name="tiny"} 1.0' in httpx.get(f"{url}/metrics").text


def test_a_guarded_endpoint_survives_its_engine_and_keeps_its_secrets(guarded, tmp_path):
    """Strangers stay out, a killed engine comes back with its adapters, a stop lets answers end.

    Neither a prompt nor a key is in the log afterwards.
    """
    server, url, log = guarded
    check_keys_and_folders(url, tmp_path)
    kill_engine(url, log)
    ask = f"{url}/v1/completions"
    answer = httpx.post(ask, json=completion(model="mine"), headers=headers(USER))
    assert answer.status_code == 200, answer.text

    running = Streaming(url, long_stream() | {"max_tokens": 300})
    os.kill(server.pid, signal.SIGTERM)
    wait_for_status(url, 503)
    refused = httpx.post(ask, json=completion(), headers=headers(USER))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    events = running.finish()
    assert events[-1] == "[DONE]"
    assert sum(bool(json.loads(e)["choices"][0]["finish_reason"]) for e in events[:-1]) == 1
    assert server.wait(30) == 0

    text = log.read_text()
    assert "was killed by SIGKILL" in text
    for word in ("Zebulon", "Quigley", "influenza", USER, ADMIN):
        assert word not in text


@pytest.fixture
def certificate(tmp_path) -> tuple[Path, Path]:
    """Return the files of a certificate for `localhost`, signed by itself, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "cert.pem", tmp_path / "key.pem"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def test_a_certificate_makes_it_https(start_replica, certificate):
    """The address that is logged is HTTPS, answers there, and plain HTTP gets nothing."""
    cert, key = certificate
    _, url = start_replica("tls", *NO_DRAFT, "--tls-cert", str(cert), "--tls-key", str(key))
    assert url.startswith("https://127.0.0.1:")
    trust = ssl.create_default_context(cafile=str(cert))
    address = url.replace("127.0.0.1", "localhost")
    assert httpx.post(f"{address}/v1/completions", json=completion(), verify=trust).is_success
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{address.replace('https', 'http')}/health")
