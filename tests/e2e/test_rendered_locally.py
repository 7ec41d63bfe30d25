"""The files of `motley plan render --target local`, run."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from planner.demo.fleet import DRAFTING, PLAIN, demo_plan
from planner.render.folder import write_folder
from planner.render.options import RenderOptions
from planner.render.targets import render

START_SECONDS = 120


@pytest.fixture
def running(tmp_path: Path, tiny_family: Path) -> Iterator[tuple[subprocess.Popen, dict]]:
    """Start the demo's fleet by its rendered script; yield the script and what it started."""
    folder = tmp_path / "fleet"
    write_folder(folder, render(demo_plan(tiny_family), "local", RenderOptions()))
    fleet = json.loads((folder / "fleet.json").read_text())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "start.log").open("wb") as log:
        # A session of its own: whatever the script may leave behind can be ended with it.
        script = subprocess.Popen(
            [folder / "start.sh"],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    try:
        yield script, fleet
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(script.pid, signal.SIGKILL)
        script.wait()


def wait_until_healthy(url: str) -> None:
    """Poll a server's /health until it answers 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.3)
    raise AssertionError(f"{url} did not come up")


def wait_until_taken_in(url: str, num_replicas: int) -> None:
    """Poll the router's metrics until it holds every replica for healthy."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        lines = httpx.get(f"{url}/metrics", trust_env=False).text.splitlines()
        healthy = [line for line in lines if line.startswith("motley_router_replica_healthy{")]
        if [line.split()[-1] for line in healthy] == ["1.0"] * num_replicas:
            return
        time.sleep(0.3)
    raise AssertionError("the router took not every replica in")


def test_the_script_serves_by_the_weights_and_ends_all_it_started(running) -> None:
    """Both offers answer through the router; SIGTERM to the script ends every process."""
    script, fleet = running
    url = fleet["router"]["url"]
    for each in (*fleet["replicas"], fleet["router"]):
        wait_until_healthy(each["url"])
    wait_until_taken_in(url, len(fleet["replicas"]))
    body = {"model": "tiny", "prompt": "def main(", "max_tokens": 4}
    for _ in range(24):
        answer = httpx.post(f"{url}/v1/completions", json=body, trust_env=False, timeout=60)
        assert answer.status_code == 200
    metrics = httpx.get(f"{url}/metrics", trust_env=False).text
    for offer in (DRAFTING, PLAIN):
        assert f'offer="{offer}",reason="planned_weights"' in metrics
    script.terminate()
    assert script.wait(60) == 143
    for each in (fleet["router"], *fleet["replicas"]):
        with pytest.raises(httpx.ConnectError):
            httpx.get(each["url"], trust_env=False)
