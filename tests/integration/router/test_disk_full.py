"""A router whose disk is full: requests go on or are refused as the settings say, and it recovers."""

import asyncio
import errno
import json
import os
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fakes import FakeReplica
from keys_files import ADMIN, bearer, write_governance
from reloadable_router import ADMIN_KEY, reloadable_router
from route_process import running
from router_under_test import metric

from router.features_log import read_lines
from router.grades import read_grades

KEY = "alices-secret-key"
BODY = {
    "model": "auto",
    "prompt": "x" * 28,
    "max_tokens": 5,
}  # 7 + 5 tokens by the fake's count too
FULL = 100
"""Bytes a file may have while the disk is full: less than any of them has by then."""


class Disk:
    """What the files of a process may take."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._room = resource.prlimit(pid, resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """Let no file grow, nor anything be written behind its beginning."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (FULL, self._room[1]))

    def clear(self) -> None:
        """Make room again."""
        resource.prlimit(self._pid, resource.RLIMIT_FSIZE, self._room)


class Router:
    """A running router with every file it can have."""

    def __init__(
        self, folder: Path, process: asyncio.subprocess.Process, client: httpx.AsyncClient
    ) -> None:
        self.folder = folder
        self.process = process
        self.client = client
        self.disk = Disk(process.pid)

    async def ask(self) -> int:
        """Send a request; return the status."""
        return (await self.client.post("/v1/completions", json=BODY)).status_code

    async def until(self, text: str) -> None:
        """Wait for a line of the log."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while text not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"the process ended without {text!r}"

    async def lost(self, log: str) -> float:
        """Return how many lines of a log were lost."""
        return await metric(self.client, "log_lines_lost_total", log=log)

    async def usage(self) -> list[int]:
        """Return the requests that the usage file knows, a number a row."""
        told = await self.client.get("/admin/usage", headers=bearer(ADMIN))
        return [row["requests"] for row in told.json()["data"]]

    async def grade(self, names: list[str]) -> int:
        """Send grades; return the status."""
        grades = [{"request_id": name, "model": "tiny", "score": 1} for name in names]
        sent = await self.client.post("/admin/grades", json=grades, headers=bearer(ADMIN))
        return sent.status_code

    def lines(self) -> int:
        """Return how many lines the traffic log has, all of them whole."""
        text = (self.folder / "traffic.jsonl").read_text()
        assert text.endswith("\n")
        return len([json.loads(line) for line in text.splitlines()])


@asynccontextmanager
async def opened(folder: Path, replica: FakeReplica, **governance: object) -> AsyncIterator[Router]:
    """Yield a process that logs traffic and features and counts usage."""
    settings = write_governance(folder, {KEY: {"name": "alice", "requests_per_minute": 1000}})
    settings["store_prompts"] = str(folder / "prompts.jsonl")
    content = {
        "port": 0,
        "models": [{"name": "tiny", "replicas": [{"url": replica.url}]}],
        "model_choice": {
            "pools": {"auto": ["tiny"]},
            "features_log": str(folder / "features.jsonl"),
            "grades": str(folder / "grades.jsonl"),
        },
        "governance": settings | governance,
        "traffic_log": {"path": str(folder / "traffic.jsonl"), "rotate_bytes": "1MiB"},
    }
    path = folder / "router.yaml"
    path.write_text(json.dumps(content))
    async with (
        running(path) as (process, url),
        httpx.AsyncClient(base_url=url, timeout=30, headers=bearer(KEY)) as client,
    ):
        yield Router(folder, process, client)


async def test_requests_go_on_and_usage_is_kept(tmp_path: Path) -> None:
    """Lines are lost, counted and told once; what was used is written when there is room again."""
    async with FakeReplica() as replica, opened(tmp_path, replica) as router:
        assert await router.ask() == 200
        async with asyncio.timeout(30):
            while await router.usage() != [1]:
                await asyncio.sleep(0.02)
        router.disk.fill()
        assert [await router.ask() for _ in range(3)] == [200, 200, 200]
        await router.until("features line lost")
        await router.until("traffic line lost")
        await router.until("usage not written, kept in memory")
        for log in ("traffic", "features", "prompts"):
            assert await router.lost(log) == 3
        assert await metric(router.client, "usage_write_failures_total") >= 1
        unread = await router.client.get("/admin/usage", headers=bearer(ADMIN))
        assert unread.status_code in (200, 503)  # SQLite may need room to read
        assert await router.grade(["r1", "r2", "r3"]) == 507  # the first one would have found room
        router.disk.clear()
        assert await router.grade(["r4"]) == 200
        await router.until("usage written again")
        assert await router.usage() == [4]
        assert await router.ask() == 200
        await router.until("features lines written again")
        await router.until("traffic lines written again")
        assert router.lines() == 2
        router.process.terminate()
        assert await asyncio.wait_for(router.process.wait(), 30) == 0
        assert router.process.stderr is not None
        assert b"Traceback" not in await router.process.stderr.read()
    assert len(list(read_lines(tmp_path / "features.jsonl"))) == 2
    assert [grade.request_id for grade in read_grades(tmp_path / "grades.jsonl")] == ["r4"]
    assert len(replica.requests) == 5


async def test_requests_are_refused_where_usage_must_be_written(tmp_path: Path) -> None:
    """`on_store_failure: refuse` answers 503 from the first failed write to the first good one."""
    async with (
        FakeReplica() as replica,
        opened(tmp_path, replica, on_store_failure="refuse") as router,
    ):
        router.disk.fill()
        assert await router.ask() == 200  # nobody knows yet
        await router.until("usage not written, kept in memory")
        refused = await router.client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503
        assert "usage" in refused.json()["error"]["message"]
        assert await metric(router.client, "refusals_total", reason="store", tenant="alice") == 1
        router.disk.clear()
        await router.until("usage written again")
        assert await router.ask() == 200
        router.process.terminate()
        assert await asyncio.wait_for(router.process.wait(), 30) == 0
    assert len(replica.requests) == 2


async def test_a_new_key_without_room_for_its_counts_refuses_the_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys in force stay, and the new one opens nothing until a reload finds room."""
    governance = write_governance(tmp_path, {KEY: {"name": "alice"}})
    body = BODY | {"model": "tiny"}

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with (
        FakeReplica() as replica,
        reloadable_router(tmp_path, replica, governance=governance) as router,
    ):
        keys = {KEY: {"name": "alice"}, "bobs-secret-key": {"name": "bob"}}
        write_governance(tmp_path, keys)
        (tmp_path / "admin.key").write_text(ADMIN_KEY)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", no_room)
            refused = await router.reload()
        assert refused.status_code == 400
        assert "No space left" in json.dumps(refused.json())
        statuses = {}
        for when in ("before", "after"):
            for key in keys:
                answer = await router.client.post("/v1/completions", json=body, headers=bearer(key))
                statuses[when, key] = answer.status_code
            assert (await router.reload()).status_code == 200
    assert list(statuses.values()) == [200, 401, 200, 200]
