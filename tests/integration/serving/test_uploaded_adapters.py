"""Uploads to the real engine in its process: hot swap, refusals, and a restart."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator

import httpx
import pytest
from adapter_files import HEADERS, add_manifest, form, read_files
from fakes import served
from lora_folders import make_adapter

from planner.model_folder import weights_sha256
from serving.adapter_store import AdapterStore
from serving.answers import AnswerService
from serving.app import build_app
from serving.config import ServeConfig
from serving.engine_child import ConfiguredEngine
from serving.engine_process import EngineProcess
from serving.supervision import Backoff

QUICK = Backoff(first_seconds=0.01, most_seconds=0.05, steady_seconds=60)


@pytest.fixture
async def engine(tiny_family) -> AsyncIterator[EngineProcess]:
    """Run the shipped target in a process of its own."""
    config = ServeConfig(
        model=str(tiny_family / "target"), served_model_name="tiny", drafter="none", threads=1
    )
    engine = EngineProcess(ConfiguredEngine(config), adapters={}, backoff=QUICK)
    engine.start()
    try:
        await engine.wait_loaded()
        yield engine
    finally:
        await engine.stop()


@pytest.fixture
async def client(engine, tokenizer, tmp_path) -> AsyncIterator[httpx.AsyncClient]:
    """Serve it on a loopback socket."""
    store = AdapterStore(tmp_path / "uploads")
    service = AnswerService(engine, tokenizer, model_name="tiny")
    app = build_app(service, engine, store=store)
    async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client
    store.close()


@pytest.fixture
def folders(tiny_family, tmp_path):
    """Return two adapters of the target, with manifests."""
    base = tiny_family / "target"
    digest = weights_sha256(base)
    return [
        add_manifest(make_adapter(base, tmp_path / f"lora-{seed}", seed=seed), digest)
        for seed in (1, 2)
    ]


async def send(client, folder, **changed) -> httpx.Response:
    """Upload a folder as `mine`."""
    body = form(read_files(folder) | changed)
    return await client.post("/admin/adapters/mine", content=body, headers=HEADERS)


def body(**fields) -> dict:
    given = {"model": "mine", "prompt": "import os\n", "max_tokens": 12, "temperature": 0}
    return given | {"ignore_eos": True} | fields


async def text_of(client, **fields) -> str:
    answer = await client.post("/v1/completions", json=body(**fields))
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


async def test_a_stream_keeps_its_adapter_while_another_takes_the_name(client, folders, tmp_path):
    """What runs ends as it began, what comes later is the new adapter's, and nothing is refused."""
    first, second = folders
    load = {"lora_name": "other", "lora_path": str(second)}
    assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 200
    assert (await send(client, first)).status_code == 200
    # Seconds of text, beside a swap of some ten milliseconds.
    long = {"max_tokens": 700}
    alone = {"mine": await text_of(client, **long), "other": await text_of(client, model="other")}

    pieces: list[str] = []

    async def stream() -> None:
        given = body(stream=True, **long)
        async with client.stream("POST", "/v1/completions", json=given) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    event = json.loads(line.removeprefix("data: "))
                    pieces.extend(choice["text"] for choice in event["choices"])

    streaming = asyncio.create_task(stream())
    while len(pieces) < 5:
        await asyncio.sleep(0.01)
    swapping = asyncio.create_task(send(client, second))
    num_asked = 0
    while not swapping.done():
        await text_of(client, max_tokens=1)
        num_asked += 1
    assert swapping.result().json()["replaced"], swapping.result().text
    num_before = len(pieces)
    assert num_asked > 0
    assert await text_of(client) == alone["other"]
    await streaming
    assert len(pieces) > num_before > 0, "the stream went on behind the swap"
    assert "".join(pieces) == alone["mine"]


async def test_uploads_outlive_the_engine_and_refusals_change_nothing(client, engine, folders):
    """Another base, other weights: refused, the old one answers; so it does after a crash."""
    first, second = folders
    assert (await send(client, first)).status_code == 200
    before = await text_of(client)
    wrong = json.loads((second / "motley.json").read_bytes()) | {"base_weights_sha256": "1" * 64}
    refused = await send(client, second, **{"motley.json": json.dumps(wrong).encode()})
    assert refused.status_code == 400
    assert "adapter 'mine': was trained on base weights 1111" in refused.json()["error"]["message"]
    assert await text_of(client) == before
    os.kill(engine.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while engine.num_restarts == 0 or engine.problem is not None:
            await asyncio.sleep(0.05)
    assert await text_of(client) == before
    listed = (await client.get("/admin/adapters")).json()["data"]
    assert [(card["id"], card["job"]) for card in listed] == [("mine", "toy")]
