"""Ten minutes of everything at once: memory is level, nothing is left behind, no answer is wrong.

Memory is compared of each process for itself, within one life of it. The engine's process is killed
after a minute, so that from minute 2 to 10 there is one engine, the second, which has long loaded
and met every kind of request; the endpoint's process lives through all of it, and its threads and
files are also held against those before the kill. A level is the median over half a minute: single
samples fall into requests of megabytes. The memory for keys and values is small, to be full before
minute 2: it is taken page by page, and that is no growth.
"""

import asyncio
import logging
import os
import random
import re
import signal
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from adapter_files import HEADERS, add_manifest, form, read_files
from endpoint_watch import Holding, children, idle_metrics, wait_until_ended
from lora_folders import make_adapter
from mixed_load import UPLOADED_NAME, Seen, Service, Visitor
from whole_answers import stream_events, whole_choices

from planner.model_folder import weights_sha256

logger = logging.getLogger(__name__)

KILL_SECONDS = 60
WARM_SECONDS = 120
END_SECONDS = 600
WINDOW_SECONDS = 30
NUM_CLIENTS = 6
NUM_LONG_STREAMS = 3
MOST_GROWTH_FRACTION = 0.02
ADAPTER_NAMES = ("first", "second", "third")
UPLOAD_PATH = f"/admin/adapters/{UPLOADED_NAME}"


@dataclass
class Soak:
    """One endpoint under load, and what was seen of it."""

    url: str
    pid: int
    log: Path
    adapter_folders: list[Path]
    uploads: list[bytes]
    """Forms of the same adapters."""
    service: Service = field(default_factory=Service)
    seen: Seen = field(default_factory=Seen)
    samples: list[tuple[float, Holding, Holding | None]] = field(default_factory=list)
    """Seconds since the start; what the endpoint's process held, and the engine's."""
    started_at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started_at

    @property
    def engine_pid(self) -> int:
        return int(re.findall(r"engine process started pid=(\d+)", self.log.read_text())[-1])

    async def run(self) -> None:
        """Send load until the end; the engine is killed on the way."""
        async with asyncio.TaskGroup() as group:
            for number in range(NUM_CLIENTS):
                group.create_task(self._send(random.Random(f"client {number}")))
            group.create_task(self._swap_adapters(random.Random("adapters")))
            group.create_task(self._replace_uploads(random.Random("uploads")))
            group.create_task(self._watch())
            group.create_task(self._kill_engine())

    async def _send(self, draws: random.Random) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            visitor = Visitor(client, self.service, self.seen, draws)
            while self.seconds < END_SECONDS:
                await visitor.visit()

    async def _watch(self) -> None:
        while self.seconds < END_SECONDS:
            try:
                engine = Holding.of(self.engine_pid)
            except (FileNotFoundError, ProcessLookupError):
                engine = None
            self.samples.append((self.seconds, Holding.of(self.pid), engine))
            await asyncio.sleep(1)

    async def _swap_adapters(self, draws: random.Random) -> None:
        """Load and unload under the requests that name them; a name returns with other weights."""
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            while self.seconds < END_SECONDS:
                loaded = loaded_adapters(await client.get("/v1/models"))
                self.service.model_names = loaded
                name = draws.choice(ADAPTER_NAMES)
                path, body = "/v1/unload_lora_adapter", {"lora_name": name}
                if name not in loaded:
                    path = "/v1/load_lora_adapter"
                    body["lora_path"] = str(draws.choice(self.adapter_folders))
                num_outages = self.service.num_outages
                answer = await client.post(path, json=body)
                self.seen.counts[path, answer.status_code] += 1
                if answer.status_code != 200:
                    assert answer.status_code == 503, answer.text
                    assert self.service.may_fail_since(num_outages), answer.text
                await asyncio.sleep(draws.uniform(0, 0.5))

    async def _replace_uploads(self, draws: random.Random) -> None:
        """Send one adapter after the other under a name that requests have all the time."""
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            while self.seconds < END_SECONDS:
                num_outages = self.service.num_outages
                content = draws.choice(self.uploads)
                answer = await client.post(UPLOAD_PATH, content=content, headers=HEADERS)
                self.seen.counts[UPLOAD_PATH, answer.status_code] += 1
                if answer.status_code != 200:
                    assert answer.status_code == 503, answer.text
                    assert self.service.may_fail_since(num_outages), answer.text
                await asyncio.sleep(draws.uniform(0, 0.5))

    async def _kill_engine(self) -> None:
        """Kill it under streams, which end with an error; wait until it serves again."""
        await asyncio.sleep(KILL_SECONDS)
        pid = self.engine_pid
        streams = [LongStream(self.url) for _ in range(NUM_LONG_STREAMS)]
        running = [asyncio.create_task(stream.read()) for stream in streams]
        await asyncio.gather(*(stream.has_begun.wait() for stream in streams))
        self.service.begin_outage()
        os.kill(pid, signal.SIGKILL)
        for text in await asyncio.gather(*running):
            assert stream_events(text)[-1]["error"]["code"] == 503
        async with httpx.AsyncClient(base_url=self.url, timeout=120) as client:
            while (answer := await client.get("/health")).status_code != 200:
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                await asyncio.sleep(0.1)
        self.service.end_outage()
        assert self.engine_pid != pid
        assert self.seconds < WARM_SECONDS, f"the engine was back after {self.seconds:.0f} s"

    def window(self, start: float) -> dict[str, list[Holding]]:
        """Return what each process held in the half minute from `start` on."""
        rows = [s for s in self.samples if start <= s[0] < start + WINDOW_SECONDS]
        return {
            "endpoint": [endpoint for _, endpoint, _ in rows],
            "engine": [engine for _, _, engine in rows if engine is not None],
        }


class LongStream:
    """A stream of many tokens that is read to its end."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.has_begun = asyncio.Event()

    async def read(self) -> str:
        body = {"model": "tiny", "prompt": "import ", "max_tokens": 600, "ignore_eos": True}
        lines = []
        async with (
            httpx.AsyncClient(base_url=self._url, timeout=120) as client,
            client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer,
        ):
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                lines.append(line)
                self.has_begun.set()
        return "\n".join(lines)


def loaded_adapters(models: httpx.Response) -> list[str]:
    return [card["id"] for card in models.json()["data"] if card["parent"]]


async def drain(soak: Soak) -> None:
    """Tell the endpoint to end under streams: they end well, what is new is refused."""
    streams = [LongStream(soak.url) for _ in range(NUM_LONG_STREAMS)]
    running = [asyncio.create_task(stream.read()) for stream in streams]
    await asyncio.gather(*(stream.has_begun.wait() for stream in streams))
    os.kill(soak.pid, signal.SIGTERM)
    async with httpx.AsyncClient(base_url=soak.url, timeout=120) as client:
        while (answer := await client.get("/health")).status_code != 503:
            await asyncio.sleep(0.02)
        refused = await client.post("/v1/completions", json={"model": "tiny", "prompt": "a"})
    for said in (answer, refused):
        assert (said.status_code, said.headers["retry-after"]) == (503, "1")
    for text in await asyncio.gather(*running):
        assert whole_choices(stream_events(text), 1)[0][1] == "length"


def check_idle(url: str) -> None:
    """Nobody asks any more: no page is in use, and every adapter can go."""
    for name in loaded_adapters(httpx.get(f"{url}/v1/models")):
        assert httpx.post(f"{url}/v1/unload_lora_adapter", json={"lora_name": name}).is_success
    values = idle_metrics(url)
    assert values["vllm:kv_cache_usage_perc"] == 0
    assert values["motley:adapters_loaded"] == 0
    assert values["vllm:spec_decode_num_accepted_tokens_total"] > 0
    assert values["motley:failed_requests_total"] == 0
    assert values["motley:engine_restarts_total"] == 1


def check_level(soak: Soak) -> None:
    """Both processes hold at the end what they held when they were warm."""
    warm, end = soak.window(WARM_SECONDS), soak.window(END_SECONDS - WINDOW_SECONDS)
    for name in ("endpoint", "engine"):
        before, after = level(warm[name], "resident_bytes"), level(end[name], "resident_bytes")
        growth = after / before - 1
        logger.info("soak process=%s bytes=%d growth_fraction=%.4f", name, before, growth)
        assert growth < MOST_GROWTH_FRACTION, f"{name}: {before:.0f} to {after:.0f} bytes"
        for what in ("num_threads", "num_files"):
            most = max(getattr(held, what) for held in warm[name])
            assert level(end[name], what) <= most, f"{name}: more {what} than {most}"


def level(window: list[Holding], what: str) -> float:
    return statistics.median(getattr(held, what) for held in window)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_ten_minutes_of_mixed_load_leave_nothing_behind(start_replica, tiny_family, tmp_path):
    """Every answer is expected, memory stays level, every page and adapter is free at the end."""
    folders = [
        make_adapter(tiny_family / "target", tmp_path / f"adapter-{seed}", seed=seed)
        for seed in range(3)
    ]
    digest = weights_sha256(tiny_family / "target")
    forms = [form(read_files(add_manifest(folder, digest))) for folder in folders]
    place = tmp_path / "uploads"
    words = ["--kv-memory", "32MiB", "--drain-timeout", "200", "--adapter-upload-dir", str(place)]
    server, url = start_replica("soak", *words)
    soak = Soak(url, server.pid, tmp_path / "soak.log", folders, forms)
    assert httpx.post(f"{url}{UPLOAD_PATH}", content=forms[0], headers=HEADERS).is_success
    num_files = Holding.of(server.pid).num_files
    asyncio.run(soak.run())

    assert soak.seen.failures == []
    for status in (200, 400, 404, 405, 413, 503):
        assert soak.seen.num(status), f"nothing was answered {status}"
    assert soak.seen.counts[UPLOAD_PATH, 200] > 1
    check_idle(url)
    assert len(list(place.glob("endpoint-*/*"))) <= 1, "replaced uploads are left"
    check_level(soak)
    assert Holding.of(server.pid).num_files <= num_files
    started = [server.pid, *children(server.pid)]
    asyncio.run(drain(soak))
    assert server.wait(30) == 0
    wait_until_ended(started)
    assert list(place.iterdir()) == []
    assert "Traceback" not in soak.log.read_text()
