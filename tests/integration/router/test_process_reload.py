"""`motley route` and SIGHUP."""

import asyncio
import signal
from pathlib import Path

import httpx
from fakes import FakeReplica
from route_process import running, write_config

STREAM = {"model": "tiny", "prompt": "x", "stream": True}


async def read_until(stderr: asyncio.StreamReader, text: str) -> str:
    """Return the next line of log that holds `text`."""
    async with asyncio.timeout(30):
        while line := (await stderr.readline()).decode():
            if text in line:
                return line
    raise AssertionError(f"the process ended without {text!r}")


async def test_sighup_reads_the_file_again_under_a_running_stream(tmp_path: Path) -> None:
    """A bad file is one line and changes nothing; a good one moves requests, and the stream ends."""
    async with FakeReplica(pause_seconds=0.3) as first, FakeReplica() as second:
        path = write_config(tmp_path, first.url)
        async with (
            running(path) as (process, url),
            httpx.AsyncClient(base_url=url, timeout=30) as client,
        ):
            assert process.stderr is not None
            stream = asyncio.create_task(client.post("/v1/completions", json=STREAM))
            while not first.requests:
                await asyncio.sleep(0.01)
            good = write_config(tmp_path, second.url).read_text()
            path.write_text("models: 5\n")
            process.send_signal(signal.SIGHUP)
            refusal = await read_until(process.stderr, "reload refused")
            assert "cause=SIGHUP" in refusal
            assert "models" in refusal
            path.write_text(good)
            process.send_signal(signal.SIGHUP)
            await read_until(process.stderr, "reloaded cause=SIGHUP changed=models")
            answer = await client.post("/v1/completions", json={"model": "tiny", "prompt": "y"})
            assert answer.status_code == 200
            assert len(second.requests) == 1
            assert (await stream).content == first.stream_bytes(with_usage=False)
            await read_until(process.stderr, f"replica removed url={first.url}")
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
