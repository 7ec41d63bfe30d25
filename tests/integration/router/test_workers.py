"""`motley route` with two workers: limits over both, deaths, restarts, signals."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fakes import FakeReplica
from keys_files import ADMIN, bearer, write_governance

ROOT = Path(__file__).parents[3]
KEY = "alices-secret-key"
BODY = {
    "model": "tiny",
    "prompt": "x" * 28,
    "max_tokens": 5,
}  # 7 + 5 tokens by the fake's count too


class Workers:
    """A running router of two workers."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Read its log as it comes."""
        self.process = process
        self.lines: list[str] = []
        self.url = ""
        self._reading = asyncio.create_task(self._read())

    async def until(self, text: str, *, times: int = 1) -> None:
        """Wait until so many lines of the log hold `text`."""
        async with asyncio.timeout(90):
            while sum(text in line for line in self.lines) < times:
                assert not self._reading.done(), self.lines
                await asyncio.sleep(0.02)

    def pids(self) -> list[int]:
        """Return the processes of the workers."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    async def ended(self) -> int:
        """Wait for the end of everything; return the exit code."""
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self._reading  # until the last worker has closed its side
        return code

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode().rstrip())


@asynccontextmanager
async def running(
    folder: Path, replica: FakeReplica, **governance: object
) -> AsyncIterator[Workers]:
    """Yield a router of two workers once it answers."""
    content = {
        "port": 0,
        "workers": 2,
        "models": [{"name": "tiny", "replicas": [{"url": replica.url}]}],
        "governance": governance,
        "traffic_log": str(folder / "traffic.jsonl"),
    }
    (folder / "router.json").write_text(json.dumps(content))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "motley", "route", str(folder / "router.json")),
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    workers = Workers(process)
    try:
        await workers.until("listening")
        found = re.search(
            r"listening url=(http://127\.0\.0\.1:\d+)$", "\n".join(workers.lines), re.M
        )
        assert found is not None
        workers.url = found[1]
        yield workers
    finally:
        if process.returncode is None:
            process.kill()
        await workers.ended()


def is_running(pid: int) -> bool:
    """Return whether a process exists."""
    return Path(f"/proc/{pid}").exists()


async def ask_each(url: str, num_requests: int) -> list[int]:
    """Send requests at once, each over a connection of its own; return the statuses."""

    async def ask() -> int:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return (
                await client.post("/v1/completions", json=BODY, headers=bearer(KEY))
            ).status_code

    return list(await asyncio.gather(*[ask() for _ in range(num_requests)]))


def workers_that_counted(metrics: str) -> set[str]:
    """Return the workers that have ended a request, by their label."""
    return set(re.findall(r'motley_router_requests_total\{.*worker="(\d)"', metrics))


async def test_a_rate_holds_over_workers_a_kill_and_a_restart(tmp_path: Path) -> None:
    """Twenty a minute are twenty, whoever takes them, whatever is killed, started again or not."""
    governance = write_governance(tmp_path, {KEY: {"name": "alice", "requests_per_minute": 20}})
    async with FakeReplica() as replica:
        async with running(tmp_path, replica, **governance) as workers:
            first = await ask_each(workers.url, 12)
            os.kill(workers.pids()[0], signal.SIGKILL)
            await workers.until("worker died, another one starts")
            second = await ask_each(workers.url, 5)
            workers.process.kill()
            await workers.ended()
        async with running(tmp_path, replica, **governance) as workers:
            third = await ask_each(workers.url, 12)
            async with httpx.AsyncClient(base_url=workers.url, timeout=60) as client:
                metrics = await client.get("/metrics")
            workers.process.terminate()
            assert await workers.ended() == 0
    statuses = first + second + third
    assert set(statuses) == {200, 429}
    assert statuses.count(200) == 20
    assert len(replica.requests) == 20
    assert "motley_router_workers_seen 2.0" in metrics.text
    assert "Traceback" not in "\n".join(workers.lines)


async def test_a_budget_holds_over_workers_and_is_written(tmp_path: Path) -> None:
    """Requests at once on both workers stop at the budget, and the usage file has each of them."""
    budget = {"per": "total", "tokens": 12 * 10}
    governance = write_governance(tmp_path, {KEY: {"name": "alice", "budgets": [budget]}})
    async with FakeReplica() as replica, running(tmp_path, replica, **governance) as workers:
        statuses: list[int] = []
        async with asyncio.timeout(120):
            while statuses.count(200) < 10:
                statuses += await ask_each(workers.url, 8)
        statuses += await ask_each(workers.url, 8)
        await asyncio.sleep(1)  # the other worker's thread writes within a quarter of a second
        async with httpx.AsyncClient(base_url=workers.url, timeout=60) as client:
            told = (await client.get("/admin/usage", headers=bearer(ADMIN))).json()
            metrics = (await client.get("/metrics")).text
    assert statuses.count(200) == len(replica.requests) == 10
    assert [row["requests"] for row in told["data"]] == [10]
    assert told["keys"][0]["budgets"] == [budget | {"used": 120, "reserved": 0}]
    told_tokens = re.findall(r"motley_router_tokens_total\{.*\} ([\d.]+)", metrics)
    assert sum(map(float, told_tokens)) == 120
    assert workers_that_counted(metrics) <= {"0", "1"}


async def test_a_reload_reaches_every_worker(tmp_path: Path) -> None:
    """A key that is taken out of the file opens nothing any more, whichever worker is asked."""
    governance = write_governance(tmp_path, {KEY: {"name": "alice"}})
    async with FakeReplica() as replica, running(tmp_path, replica, **governance) as workers:
        assert set(await ask_each(workers.url, 6)) == {200}
        (tmp_path / "keys.json").write_text('{"keys": []}')
        async with httpx.AsyncClient(base_url=workers.url, timeout=60) as client:
            answer = await client.post("/admin/reload", headers=bearer(ADMIN))
            assert answer.status_code == 200
        await workers.until("reloaded cause=SIGHUP", times=2)
        assert set(await ask_each(workers.url, 12)) == {401}


async def test_a_stream_ends_whole_when_the_supervisor_is_told_to_stop(tmp_path: Path) -> None:
    """SIGTERM to the one process that the user started is enough, and nothing is left running."""
    governance = write_governance(tmp_path, {KEY: {"name": "alice"}})
    async with (
        FakeReplica(pause_seconds=0.1) as replica,
        running(tmp_path, replica, **governance) as workers,
        httpx.AsyncClient(base_url=workers.url, timeout=60) as client,
    ):
        pids = workers.pids()
        stream = asyncio.create_task(
            client.post("/v1/completions", json=BODY | {"stream": True}, headers=bearer(KEY))
        )
        while not replica.requests:  # the fake has no event for this
            await asyncio.sleep(0.01)
        workers.process.terminate()
        assert (await stream).content == replica.stream_bytes(with_usage=False)
        assert await workers.ended() == 0
    assert len(pids) == 2
    assert not any(is_running(pid) for pid in pids)
