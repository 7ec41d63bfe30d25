"""`motley route` as a process."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fakes import FakeReplica
from route_process import ROOT, motley_route, running, write_config

STREAM = {"model": "tiny", "prompt": "x", "stream": True}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
async def test_running_streams_finish_after_a_signal(tmp_path: Path, sent: signal.Signals) -> None:
    """A stream that runs when the signal comes is completed; then the process ends with 0."""
    async with (
        FakeReplica(pause_seconds=0.1) as replica,
        running(write_config(tmp_path, replica.url)) as (process, url),
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        answer = asyncio.create_task(client.post("/v1/completions", json=STREAM))
        while not replica.requests:  # the fake has no event for this
            await asyncio.sleep(0.01)
        process.send_signal(sent)
        assert (await answer).content == replica.stream_bytes(with_usage=False)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_streams_past_the_deadline_end_with_an_error_event(tmp_path: Path) -> None:
    """At the deadline a stream is told so; nothing is left running and no traceback is printed."""
    async with (
        FakeReplica(pause_seconds=3600) as replica,
        running(write_config(tmp_path, replica.url, timeouts="{shutdown_seconds: 1}")) as (
            process,
            url,
        ),
        httpx.AsyncClient(base_url=url, timeout=30) as client,
    ):
        answer = asyncio.create_task(client.post("/v1/completions", json=STREAM))
        while not replica.requests:  # the fake has no event for this
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert "the router is stopping" in (await answer).text.split("\n\n")[-2]
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()


def refused(*words: object) -> tuple[int, list[str]]:
    """Run `motley route` to its end; return the exit code and the lines of standard error."""
    done = subprocess.run(
        motley_route(*words), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stderr.splitlines()


def test_busy_port_is_one_line(tmp_path: Path) -> None:
    """A port in use ends the start with one line and exit code 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, lines = refused(write_config(tmp_path, "http://127.0.0.1:9"), "--port", port)
    assert code == 2
    (line,) = lines
    assert f"cannot listen on 127.0.0.1:{port}" in line


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["none.yaml"], "no such file"),
        ([], "Missing argument"),
        (["none.yaml", "--port", "70000"], "70000"),
        (["none.yaml", "--prot", "1"], "--prot"),
    ],
)
def test_bad_command_lines_are_one_line(words: list[str], problem: str) -> None:
    """Mistakes on the command line end with one line and exit code 2."""
    code, lines = refused(*words)
    assert code == 2
    (line,) = lines
    assert problem in line


def test_unknown_key_is_one_line(tmp_path: Path) -> None:
    """An unknown key ends the start with one line and exit code 2."""
    code, lines = refused(write_config(tmp_path, "http://127.0.0.1:9", retires="{}"))
    assert (code, len(lines)) == (2, 1)
    assert "retires: unknown key" in lines[0]


def test_the_command_line_imports_nothing_heavy() -> None:
    """Help and usage errors come before the server's and client's libraries are imported."""
    heavy = ["torch", "aiohttp", "uvicorn", "starlette", "fastapi", "httpx"]
    program = f"import sys, router.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stdout.strip() == "[]"
