"""Adapters that clients send, over an engine that only remembers folders."""

import asyncio
import fcntl
import os
import shutil
import threading
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from adapter_files import (
    BOUNDARY,
    HEADERS,
    adapter_files,
    form,
    in_pieces,
    manifest_of,
    part,
    write_files,
)
from fakes import served
from remembering_engine import RememberingEngine

from serving.adapter_store import AdapterStore
from serving.errors import AdapterError, EngineError
from serving.keys import KeyRing
from serving.operations import build_operations

PATH = "/admin/adapters/med"


@pytest.fixture
def engine():
    return RememberingEngine()


@pytest.fixture
def open_client(engine, tmp_path):
    """Return a function that serves the engine with these limits and yields a client."""

    @asynccontextmanager
    async def opened(*, keys=None, **limits):
        store = AdapterStore(tmp_path / "uploads", **limits)
        app = build_operations(engine, "base", keys=keys, store=store)
        async with served(app) as url, httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client
        store.close()
        assert kept(tmp_path) == []

    return opened


def kept(tmp_path: Path) -> list[Path]:
    """Return every folder of an upload, whole or not."""
    return sorted((tmp_path / "uploads").glob("endpoint-*/*"))


async def send(client, files, path=PATH):
    return await client.post(path, content=form(files), headers=HEADERS)


def refused(answer, status, words):
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status), error
    assert words in error["message"], error["message"]
    assert "\n" not in error["message"]
    assert "endpoint-" not in error["message"]  # the folder is none of the sender's


async def test_an_upload_is_loaded_from_a_whole_folder(open_client, engine, tmp_path):
    """The three files lie as sent in one folder, and the answer and the list say what they are."""
    files = adapter_files()
    async with open_client() as client:
        answer = await send(client, files)
        assert answer.status_code == 200, answer.text
        card = answer.json()
        assert (card["id"], card["job"], card["rank"], card["replaced"]) == ("med", "toy", 4, False)
        folder = engine.folders["med"]
        assert kept(tmp_path) == [folder]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        listed = (await client.get("/admin/adapters")).json()
        del card["replaced"]
        assert listed["data"] == [card]
        assert listed["max_upload_bytes"] == 2 << 30


async def test_httpxs_own_form_is_taken(open_client, engine):
    """What common clients send, field names and file names as they choose them, is understood."""
    async with open_client() as client:
        named = [("files", (name, content)) for name, content in adapter_files().items()]
        assert (await client.post(PATH, files=named)).status_code == 200
        assert engine.adapter_names == ["med"]


async def test_a_second_upload_takes_the_firsts_place(open_client, engine, tmp_path):
    """The name answers with the new folder; of the old ones no more than one set lingers."""
    async with open_client() as client:
        folders = []
        for rank in (1, 2, 3):
            answer = await send(client, adapter_files(rank=rank))
            assert answer.json()["replaced"] == (rank > 1)
            folders.append(engine.folders["med"])
        assert len(set(folders)) == 3
        assert kept(tmp_path) == sorted(folders[1:])


async def test_what_other_names_do_leaves_a_replaced_folder(open_client, engine, tmp_path):
    """A request may still read it; of names that come and go no more than a few folders linger."""
    async with open_client() as client:
        await send(client, FILES)
        first = engine.folders["med"]
        await send(client, FILES)
        for number in range(12):
            path = f"/admin/adapters/n{number}"
            await send(client, FILES, path)
            await client.delete(path)
            assert first.exists() == (number < 7)
        assert len(kept(tmp_path)) == 9


async def test_a_path_in_place_of_a_lost_upload_is_not_told_as_it(open_client, engine, tmp_path):
    """An engine that lost an upload takes a folder under its name; the list knows only the name."""
    async with open_client() as client:
        await send(client, FILES)
        engine.folders.clear()
        folder = write_files(tmp_path / "lora", adapter_files(rank=2))
        load = {"lora_name": "med", "lora_path": str(folder)}
        assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 200
        (card,) = (await client.get("/admin/adapters")).json()["data"]
        assert (card["id"], card["rank"], card["job"]) == ("med", None, None)


async def test_a_removed_upload_is_unloaded(open_client, engine):
    """Deleting answers as OpenAI's models do; twice is 404."""
    async with open_client() as client:
        await send(client, adapter_files())
        gone = await client.delete(PATH)
        assert gone.json() == {"id": "med", "object": "adapter", "deleted": True}
        assert engine.folders == {}
        refused(await client.delete(PATH), 404, "no adapter 'med'")


def _without(name):
    return {key: content for key, content in adapter_files().items() if key != name}


FILES = adapter_files()
WEIGHTS = FILES["adapter_model.safetensors"]
BROKEN = {
    "no manifest": (_without("motley.json"), 400, "the upload lacks motley.json"),
    "no weights": (_without("adapter_model.safetensors"), 400, "lacks adapter_model.safetensors"),
    "a pickle": (FILES | {"adapter_model.bin": b"x"}, 400, "'adapter_model.bin' is not expected"),
    "a climbing name": (FILES | {"../motley.json": b"{}"}, 400, "'../motley.json' is not expected"),
    "an absolute name": (FILES | {"/etc/passwd": b"x"}, 400, "'/etc/passwd' is not expected"),
    "a pickle by another name": (
        FILES
        | {
            "adapter_model.safetensors": b"\x80\x04\x95pickle",
            "motley.json": manifest_of(b"\x80\x04\x95pickle"),
        },
        400,
        "adapter_model.safetensors: is no safetensors file",
    ),
    "other weights": (
        FILES | {"adapter_model.safetensors": adapter_files(width=9)["adapter_model.safetensors"]},
        400,
        "is not the file its motley.json describes",
    ),
    "too large a rank": (adapter_files(rank=5), 400, "rank 5 is above this endpoint's 4"),
    "another rank": (
        FILES | {"motley.json": manifest_of(WEIGHTS, rank=2)},
        400,
        "motley.json says rank 2, adapter_config.json 4",
    ),
    "no job": (FILES | {"motley.json": manifest_of(WEIGHTS, job="")}, 400, "job"),
    "a hidden rank": (
        FILES | {"adapter_config.json": b'{"peft_type": "LORA", "r": 1}'},
        400,
        "has rank 4, adapter_config.json says 1",
    ),
    "another form": (
        FILES | {"motley.json": manifest_of(WEIGHTS, schema_version=2)},
        400,
        "schema_version 2 is unknown",
    ),
    "no LoRA": (
        FILES | {"adapter_config.json": b'{"peft_type": "IA3", "r": 4}'},
        400,
        "only LoRA can be served",
    ),
    "a huge configuration": (
        FILES | {"adapter_config.json": b" " * ((1 << 20) + 1)},
        413,
        "adapter_config.json is above 1048576 bytes",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_what_is_no_adapter_is_refused_and_leaves_nothing(
    open_client, engine, tmp_path, case
):
    """One line says what is wrong; no file stays, inside the folder or out of it."""
    files, status, words = BROKEN[case]
    before = {path for path in tmp_path.rglob("*") if "uploads" not in path.parts}
    async with open_client(most_rank=4, most_bytes=1 << 22) as client:
        refused(await send(client, files), status, words)
        assert kept(tmp_path) == []
        assert engine.folders == {}
    assert {path for path in tmp_path.rglob("*") if "uploads" not in path.parts} == before


@pytest.mark.parametrize(
    ("body", "headers", "words"),
    [
        (b"{}", {"content-type": "application/json"}, "no multipart/form-data"),
        (b"", HEADERS, "no whole form"),
        (b"x" * (3 << 20), HEADERS, "more than the files"),
        (form(FILES)[:-100], HEADERS, "no whole form"),
        (part("motley.json", b"{}") * 2, HEADERS, "sent twice"),
        (f"--{BOUNDARY}\r\nX: y\r\n\r\n".encode(), HEADERS, "Content-Disposition"),
        (
            f"--{BOUNDARY}\r\nContent-Disposition: form-data\r\n\r\n".encode(),
            HEADERS,
            "is not expected",
        ),
    ],
    ids=["json", "empty", "no boundary", "cut", "twice", "no name", "no field"],
)
async def test_what_is_no_form_is_refused(open_client, tmp_path, body, headers, words):
    """A body that breaks the form is the sender's mistake, in one line."""
    async with open_client() as client:
        refused(await client.post(PATH, content=body, headers=headers), 400, words)
        assert kept(tmp_path) == []


@pytest.mark.parametrize("has_length", [True, False], ids=["stated", "absent"])
async def test_an_upload_above_the_limit_is_refused(open_client, tmp_path, has_length):
    """A length that is too large, or none and too much content, is 413 and leaves nothing."""
    content = form(adapter_files(width=1 << 14))
    async with open_client(most_bytes=1 << 18) as client:
        body = content if has_length else in_pieces(content)
        refused(await client.post(PATH, content=body, headers=HEADERS), 413, "above 262144 bytes")
        assert kept(tmp_path) == []


@asynccontextmanager
async def half_sent(client, tmp_path):
    """Yield a connection that has promised more of an upload than it has sent."""
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n"
    head += f"Content-Type: {HEADERS['content-type']}\r\n\r\n"
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(head.encode() + form(FILES)[:400])
    async with asyncio.timeout(10):
        while not kept(tmp_path):
            await asyncio.sleep(0.01)
        yield reader, writer
        while kept(tmp_path):
            await asyncio.sleep(0.01)
    writer.close()


async def test_an_upload_that_breaks_off_leaves_nothing(open_client, engine, tmp_path):
    """A client that goes in the middle, its length not reached, is as if it had never come."""
    async with open_client() as client, half_sent(client, tmp_path) as (_, writer):
        writer.transport.abort()
    assert engine.folders == {}


async def test_an_upload_that_stands_still_is_ended(open_client, tmp_path):
    """A client that sends nothing more gets 408, and its files go."""
    async with (
        open_client(idle_seconds=0.2) as client,
        half_sent(client, tmp_path) as (reader, _),
    ):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")


async def test_an_engines_refusal_removes_the_folder_and_keeps_the_old(
    open_client, engine, tmp_path
):
    """What the engine does not take is gone, and the adapter before it stays where it was."""
    async with open_client() as client:
        await send(client, adapter_files(rank=1))
        first = engine.folders["med"]
        for refusal, status in ((AdapterError("does not fit"), 400), (EngineError("fails"), 500)):
            engine.refusal = refusal
            answer = await send(client, adapter_files(rank=2))
            refused(answer, status, f"adapter 'med': {refusal}")
        assert engine.folders["med"] == first
        assert kept(tmp_path) == [first]


@pytest.mark.parametrize(
    ("name", "words"), [("base", "is the base model's name"), ("a%20b", "is no model name")]
)
async def test_a_name_that_cannot_be_is_refused(open_client, engine, name, words):
    """The base model's name, and what breaks a log line, are refused before the body is read."""
    async with open_client() as client:
        refused(await send(client, FILES, f"/admin/adapters/{name}"), 400, words)


async def test_a_name_never_becomes_a_path(open_client, engine, tmp_path):
    """A name with slashes and dots is a name like others; its folder lies where all do."""
    async with open_client() as client:
        answer = await send(client, FILES, "/admin/adapters/..%2F..%2Fx")
        assert answer.json()["id"] == "../../x"
        assert kept(tmp_path) == [engine.folders["../../x"]]


async def test_only_admins_send_and_remove_and_list(open_client, engine, tmp_path):
    """Without a key 401, with a user's 403, before anything is written; an admin's key opens."""
    async with open_client(keys=KeyRing(["user"], ["admin"])) as client:
        for authorization, status in ((None, 401), ("Bearer x", 401), ("Bearer user", 403)):
            given = HEADERS | ({"authorization": authorization} if authorization else {})
            sent = await client.post(PATH, content=form(FILES), headers=given)
            gone = await client.delete(PATH, headers=given)
            listed = await client.get("/admin/adapters", headers=given)
            assert [a.status_code for a in (sent, gone, listed)] == [status] * 3
        assert kept(tmp_path) == []
        given = HEADERS | {"authorization": "Bearer admin"}
        assert (await client.post(PATH, content=form(FILES), headers=given)).status_code == 200


async def test_a_full_disk_is_told(open_client, engine, tmp_path):
    """A place that cannot be written is 507, and says where and what to do."""
    (tmp_path / "uploads").write_text("a file")
    async with open_client() as client:
        answer = await send(client, FILES)
        assert answer.status_code == 507
        assert "--adapter-upload-dir" in answer.json()["error"]["message"]
    (tmp_path / "uploads").unlink()


async def test_the_place_of_uploads_may_stall(open_client, tmp_path):
    """While another endpoint clears up there, or the disk unlinks slowly, others are answered."""
    place = tmp_path / "uploads"
    place.mkdir()
    lock = os.open(place, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    async with open_client() as client:
        sending = [asyncio.create_task(send(client, FILES)) for _ in range(2)]
        for _ in range(3):
            assert (await client.get("/admin/adapters")).status_code == 200
        assert not any(each.done() for each in sending)
        os.close(lock)
        assert {(await each).status_code for each in sending} == {200}
        assert len(list(place.iterdir())) == 1


async def test_a_refused_upload_is_removed_beside_the_loop(open_client, engine, monkeypatch):
    """Gigabytes are unlinked in a thread, whether form or engine refuse them."""
    threads = []

    def remembering(folder, **options):
        threads.append(threading.current_thread())
        rmtree(folder, **options)

    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remembering)
    async with open_client() as client:
        assert (await send(client, _without("motley.json"))).status_code == 400
        engine.refusal = AdapterError("does not fit")
        assert (await send(client, FILES)).status_code == 400
        assert len(threads) == 2
        assert threading.main_thread() not in threads


async def test_a_path_with_too_large_a_rank_is_refused(open_client, engine, tmp_path):
    """The limit holds for adapters that are loaded by their path as well."""
    folder = write_files(tmp_path / "lora", adapter_files(rank=5))
    async with open_client(most_rank=4) as client:
        load = {"lora_name": "x", "lora_path": str(folder)}
        refused(await client.post("/v1/load_lora_adapter", json=load), 400, "rank 5 is above")


async def test_a_large_upload_takes_little_memory(open_client, engine):
    """200 MB pass through the process in pieces: its own objects stay below 16 MB."""
    size = 200 << 20

    async def body():
        yield part("adapter_config.json", FILES["adapter_config.json"])
        yield part("adapter_model.safetensors", b"")[:-2]
        for _ in range(size >> 18):
            yield bytes(1 << 18)
        yield b"\r\n" + part("motley.json", FILES["motley.json"]) + f"--{BOUNDARY}--\r\n".encode()

    async with open_client() as client:
        tracemalloc.start()
        try:
            answer = await client.post(PATH, content=body(), headers=HEADERS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        refused(answer, 400, "is no safetensors file")
        assert peak < 16 << 20
