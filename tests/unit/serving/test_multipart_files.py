"""Forms that are cut anywhere on their way."""

import asyncio
import shutil
import threading

import pytest
from adapter_files import HEADERS, adapter_files, form
from starlette.requests import Request

from serving import multipart_files
from serving.multipart_files import receive_files

FILES = adapter_files(rank=1, width=1) | {"motley.json": b"\r\n---\r\n--"}
BODY = form(FILES)


async def received(folder, pieces, content_type=HEADERS["content-type"]):
    """Return the files of a body that comes in these pieces."""
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive():
        return messages.pop(0)

    headers = [(b"content-type", content_type.encode())]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    folder.mkdir()
    most = dict.fromkeys(FILES, 1 << 20)
    await receive_files(request, folder, most_bytes=1 << 22, most_file_bytes=most)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    return found


async def test_a_body_may_be_cut_anywhere(tmp_path):
    """Whichever byte the first of two pieces ends with, each file is the one that was sent."""
    for end in range(1, len(BODY)):
        found = await received(tmp_path / "form", [BODY[:end], BODY[end:]])
        assert found == FILES, (BODY[end - 9 : end], BODY[end : end + 9])


async def test_a_cancelled_upload_closes_no_file_that_is_written(tmp_path, monkeypatch):
    """The write that a thread is in ends before the file is closed."""
    has_begun, may_end = threading.Event(), threading.Event()
    is_closed = []

    def slow_write(form, event):
        has_begun.set()
        may_end.wait(10)
        is_closed.append(form._file is None)

    monkeypatch.setattr(multipart_files._Form, "_write", slow_write)
    task = asyncio.create_task(received(tmp_path / "form", [BODY]))
    await asyncio.to_thread(has_begun.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert is_closed == [False]


@pytest.mark.parametrize("boundary", ["----adapter", "a-", "---", "a"])
async def test_a_body_may_come_byte_by_byte(tmp_path, boundary):
    """So may one whose boundary ends in dashes, and whose boundaries are padded."""
    content_type = f"multipart/form-data; boundary={boundary}"
    files = FILES | {"motley.json": b"{}\r\n-"}
    for end in (b"--\r\n", b"--", b"-- \t\r\n"):
        body = (
            form(files).removesuffix(b"--\r\n").replace(b"----adapter\r\n", b"----adapter \t\r\n")
        )
        body = body.replace(b"----adapter", boundary.encode()) + end
        pieces = [bytes([byte]) for byte in body]
        assert await received(tmp_path / "form", pieces, content_type) == files
