"""An adapter's files sent to an endpoint that cannot read this machine's folders."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import httpx

from finetune.adapters import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from finetune.errors import EndpointError

LIST_PATH = "/admin/adapters"

_FILES = (CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE)
ANSWER_SECONDS = 900.0
"""Longest from the last byte to the answer: behind a router every replica is sent the files, and
the router, which waits 600 s for them by default, then tells which has them not."""
_WRITE_SECONDS = 60.0

Watcher = Callable[[int, int], None]
"""Told how many bytes have been sent, and of how many."""


class _WatchedFile(io.FileIO):
    """A file that tells how much of it is read."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__(path)
        self._advance = advance

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self._advance(len(piece))
        return piece


def check_size(folder: Path, listing: object, *, address: str) -> None:
    """Check an adapter's size against what an endpoint says it takes, before all is sent.

    Args:
        folder: A complete adapter.
        listing: The endpoint's answer to `GET /admin/adapters`.
        address: Names it.

    Raises:
        EndpointError: If it takes none, or less.
    """
    if not isinstance(listing, dict) or "max_upload_bytes" not in listing:
        return
    limit = listing["max_upload_bytes"]
    if limit is None:
        raise EndpointError(
            f"{address} takes no uploads; start it with --admin-key-file or --adapter-upload-dir"
        )
    num_bytes = _num_bytes(folder)
    if isinstance(limit, int) and num_bytes > limit:
        raise EndpointError(
            f"{address} takes uploads of {limit} bytes, the adapter has {num_bytes}; start it with "
            "a larger --max-upload"
        )


def upload(
    client: httpx.Client,
    url: str,
    folder: Path,
    *,
    watch: Watcher,
    connect_seconds: float,
) -> httpx.Response:
    """Send an adapter's files as one form and return the answer; memory holds a piece at a time.

    Raises:
        httpx.TransportError: If the endpoint cannot be reached or does not answer.
    """
    total, sent = _num_bytes(folder), 0

    def advance(num_bytes: int) -> None:
        nonlocal sent
        sent += num_bytes
        watch(sent, total)

    with contextlib.ExitStack() as files:
        form = [
            ("file", (name, files.enter_context(_WatchedFile(folder / name, advance))))
            for name in _FILES
        ]
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=connect_seconds, write=_WRITE_SECONDS)
        return client.post(url, files=form, timeout=timeout)


def _num_bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in _FILES)
