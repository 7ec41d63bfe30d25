"""Adapters that clients sent: received, checked, kept for the engine, removed when replaced."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from starlette.requests import Request

from planner.loopback import is_loopback
from planner.threads import in_thread
from serving.adapter_folder import AdapterFacts, check_adapter
from serving.adapter_manifest import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE
from serving.endpoint_config import EndpointConfig
from serving.errors import ForbiddenError, ServingError, StorageError
from serving.keys import KeyRing
from serving.multipart_files import IDLE_SECONDS, receive_files
from serving.upload_folder import UploadFolder

logger = logging.getLogger(__name__)

_MOST_RETIRED = 8
"""Folders that linger, one a name: each takes as much of the disk as an adapter."""
_MOST_TEXT_BYTES = 1 << 20
"""Of the configuration and of the manifest, which are read whole."""


def _cache_folder() -> Path | None:
    """Return where uploads are kept in the user's cache; None for users without a home."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        logger.warning("uploads are not taken reason=%r", "no home; name --adapter-upload-dir")
        return None
    return cache / "motley" / "uploads"


class AdapterStore:
    """Uploaded adapters by name, each in a folder that is complete before it has its place."""

    def __init__(
        self,
        place: Path | None = None,
        *,
        most_bytes: int = 2 << 30,
        most_rank: int = 256,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        """Make nothing yet.

        Args:
            place: Where a folder for uploads is made; None takes no uploads.
            most_bytes: Largest upload.
            most_rank: Largest rank that clients may have loaded.
            idle_seconds: Longest that an upload may stand still.
        """
        self._folder = None if place is None else UploadFolder(place)
        self._making = asyncio.Lock()
        self.most_bytes = None if place is None else most_bytes
        """Largest upload; None where none is taken."""
        self.most_rank = most_rank
        self._idle_seconds = idle_seconds
        self._kept: dict[str, tuple[Path, AdapterFacts]] = {}
        self._retired: dict[str, Path] = {}

    @classmethod
    @contextmanager
    def opened(cls, config: EndpointConfig, keys: KeyRing, host: str) -> "Iterator[AdapterStore]":
        """Yield the store of an endpoint; its uploads are removed at the end.

        Without a folder named, uploads are taken in the user's cache, but not where strangers need
        no key.
        """
        place = config.adapter_upload_dir
        if place is None and (is_loopback(host) or not keys.is_open):
            place = _cache_folder()
        store = cls(
            place, most_bytes=int(config.max_upload_bytes), most_rank=config.max_adapter_rank
        )
        try:
            yield store
        finally:
            store.close()

    async def receive(self, request: Request, name: str) -> tuple[Path, AdapterFacts]:
        """Take an upload to disk and check it; what fails leaves nothing.

        Raises:
            AdapterError: If the files are no adapter for this endpoint.
            ClientDisconnect: If the client leaves.
            ForbiddenError: If this endpoint takes no uploads.
            RequestError: If the body is no form of these files.
            SlowRequestError: If the client sends nothing for too long.
            StorageError: If the disk does not take it.
            TooLargeError: If it is above the size limit.
        """
        if self._folder is None or self.most_bytes is None:
            raise ForbiddenError(
                "this endpoint takes no uploads: it asks for no key, or its user has no home; start "
                "it with --admin-key-file or --adapter-upload-dir"
            )
        most_file_bytes = {
            CONFIG_FILE: _MOST_TEXT_BYTES,
            MANIFEST_FILE: _MOST_TEXT_BYTES,
            WEIGHTS_FILE: self.most_bytes,
        }
        async with self._making:  # it clears up after other endpoints, and waits while they do
            parent = await in_thread(self._folder.path)
        async with _cleared_on_failure(parent) as temporary:
            await receive_files(
                request,
                temporary,
                most_bytes=self.most_bytes,
                most_file_bytes=most_file_bytes,
                idle_seconds=self._idle_seconds,
            )
            with naming(temporary, name):
                facts = await asyncio.to_thread(
                    check_adapter, temporary, needs_manifest=True, most_rank=self.most_rank
                )
            folder = temporary.with_name(temporary.name.removeprefix("."))
            temporary.rename(folder)
        return folder, facts

    def keep(self, name: str, folder: Path, facts: AdapterFacts) -> Path | None:
        """Remember what the engine has loaded; return a folder to discard, as `forget` does."""
        unused = self.forget(name)
        self._kept[name] = folder, facts
        return unused

    def forget(self, name: str) -> Path | None:
        """Forget an upload that the engine no longer has, if it was one; return what to discard.

        An engine may read the files once more for a request that still runs: the folder itself
        lingers until another of its name is forgotten, or several of other names.
        """
        if name not in self._kept:
            return None
        unused = self._retired.pop(name, None)
        self._retired[name], _ = self._kept.pop(name)
        if len(self._retired) > _MOST_RETIRED:
            unused = self._retired.pop(next(iter(self._retired)))
        return unused

    def facts(self, name: str) -> AdapterFacts | None:
        """Return what is known of an upload; None of others."""
        kept = self._kept.get(name)
        return None if kept is None else kept[1]

    def close(self) -> None:
        """Remove all uploads."""
        if self._folder is not None:
            self._folder.close()


async def discard(folder: Path) -> None:
    """Remove an adapter's folder; one that cannot be removed is told of in the log.

    To unlink gigabytes may take a second; a cancelled request clears up too.
    """
    try:
        await in_thread(shutil.rmtree, folder)
    except OSError as error:
        logger.warning("upload not removed folder=%s error=%s", folder, error.strerror)


@contextmanager
def naming(folder: Path, name: str) -> Iterator[None]:
    """Have failures name the adapter in place of a folder that its sender has never seen."""
    try:
        yield
    except ServingError as error:
        error.args = (str(error).replace(str(folder), f"adapter {name!r}"),)
        raise


@asynccontextmanager
async def _cleared_on_failure(parent: Path) -> AsyncIterator[Path]:
    """Yield a new hidden folder, which does not outlive a failure."""
    try:
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=".upload-"))
    except OSError as error:
        raise _full(parent, error) from None
    try:
        yield temporary
    except BaseException as error:
        logger.info("upload dropped reason=%s", type(error).__name__)
        await discard(temporary)
        if isinstance(error, OSError):
            raise _full(parent, error) from None
        raise


def _full(parent: Path, error: OSError) -> ServingError:
    return StorageError(
        f"{parent.parent}: the upload cannot be written ({error.strerror}); make room there, or "
        "start the endpoint with another --adapter-upload-dir"
    )
