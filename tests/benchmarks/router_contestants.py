"""The proxies of the router's benchmark: `motley route` and LiteLLM's, each as one process.

Both route to the same four mock replicas, ask for a key and log each request as a JSON line.
"""

import hashlib
import json
import os
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rival_environments import RivalError

from planner.demo.processes import Server, motley_command

KEY = "sk-benchmark"
MODEL = "mock"
START_SECONDS = 180.0
LITELLM_LOGGER = """
import json
from litellm.integrations.custom_logger import CustomLogger

class TrafficLog(CustomLogger):
    def __init__(self):
        super().__init__()
        self.file = open("litellm.jsonl", "a", buffering=1)

    async def async_log_success_event(self, kwargs, response, start_time, end_time):
        usage = response.usage
        line = {
            "model": kwargs["model"],
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "duration_seconds": (end_time - start_time).total_seconds(),
        }
        self.file.write(json.dumps(line) + "\\n")

traffic_log = TrafficLog()
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy."""

    port: int
    pid: int
    log: Path
    """Its traffic log."""

    def processor_seconds(self) -> float:
        """Return the user and system time of the process so far, without its children's."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Return the memory of the process."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def motley_router(folder: Path, ports: list[int]) -> Iterator[Proxy]:
    """Yield `motley route` as it is by default, with one key under every kind of limit, and a log."""
    path, keys, log = folder / "router.yaml", folder / "keys.yaml", folder / "traffic.jsonl"
    replicas = [{"url": f"http://127.0.0.1:{port}"} for port in ports]
    prices = {"price_input_usd_per_million": 0.05, "price_output_usd_per_million": 0.2}
    settings = {
        "port": 0,
        "models": [{"name": MODEL, "replicas": replicas, **prices}],
        "governance": {"keys_file": str(keys), "usage_file": str(folder / "usage.sqlite")},
        "traffic_log": str(log),
    }
    path.write_text(json.dumps(settings))
    limits = {
        "requests_per_minute": 10**9,
        "tokens_per_minute": 10**9,
        "budgets": [{"per": "day", "usd": 1e6}],
    }
    client = {"name": "benchmark", "sha256": hashlib.sha256(KEY.encode()).hexdigest(), **limits}
    keys.write_text(json.dumps({"schema_version": 1, "keys": [client]}))
    keys.chmod(0o600)
    command = motley_command(["route", str(path)])
    with Server(command, log=folder / "router.log") as server:
        url = server.wait_for_url(START_SECONDS)
        yield Proxy(int(url.rpartition(":")[2]), server.pid, log)


@contextmanager
def litellm_proxy(python: Path, folder: Path, ports: list[int]) -> Iterator[Proxy]:
    """Yield LiteLLM's proxy: one worker, a master key, a callback that writes the lines.

    Raises:
        RivalError: If it does not answer.
    """
    port = _free_port()
    (folder / "traffic_log.py").write_text(LITELLM_LOGGER)
    deployments = [
        {"api_base": f"http://127.0.0.1:{each}/v1", "api_key": KEY, "model": f"openai/{MODEL}"}
        for each in ports
    ]
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": each} for each in deployments],
        "litellm_settings": {"callbacks": ["traffic_log.traffic_log"], "telemetry": False},
        "general_settings": {"master_key": KEY},
    }
    (folder / "litellm.yaml").write_text(json.dumps(config))
    words = ["--config", "litellm.yaml", "--port", str(port), "--host", "127.0.0.1"]
    with (folder / "litellm.log").open("wb") as output:
        process = subprocess.Popen(
            [str(python.parent / "litellm"), *words, "--num_workers", "1"],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Its price list comes with the package; it would be fetched otherwise.
            env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"},
        )
    try:
        _await_listener(port, process)
        yield Proxy(port, process.pid, folder / "litellm.jsonl")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def write_request(path: Path, **fields: object) -> int:
    """Write a whole request of a 1 kB prompt for the load generator; return the prompt's bytes."""
    messages = [
        {"role": "system", "content": "You are a careful assistant of few words. " * 10},
        {"role": "user", "content": "Question #00000000: " + "add up the numbers, please. " * 21},
    ]
    body = {"model": MODEL, "messages": messages, "max_tokens": 50, "temperature": 0, **fields}
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: load\r\n"
        f"accept: */*\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    path.write_bytes(head.encode() + content)
    return sum(len(message["content"]) for message in messages)


def _free_port() -> int:
    """Return a port that no one else is given meanwhile: below those the kernel hands out."""
    for port in random.sample(range(20_000, 30_000), 100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise RivalError("no free port between 20000 and 30000")


def _await_listener(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RivalError(f"litellm ended with exit code {process.returncode}")
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return
        except OSError:
            time.sleep(0.5)
    raise RivalError(f"litellm did not listen within {START_SECONDS:.0f} s")
