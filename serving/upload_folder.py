"""Where uploads are kept: a folder of this process's own, gone when the process is."""

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serving.errors import StorageError

logger = logging.getLogger(__name__)

_PREFIX = "endpoint-"


class UploadFolder:
    """A folder below `place`, made when it is first needed.

    It is locked while its process lives: what a killed one left behind is removed by the next that
    makes its own beside it.
    """

    def __init__(self, place: Path) -> None:
        """Remember where; nothing is made yet."""
        self._place = place
        self._own: Path | None = None
        self._lock: int | None = None

    def path(self) -> Path:
        """Return the folder.

        Raises:
            StorageError: If it cannot be made.
        """
        if self._own is None:
            try:
                self._own = self._make()
            except OSError as error:
                raise StorageError(
                    f"{self._place}: uploads cannot be kept there ({error.strerror}); start the "
                    "endpoint with another --adapter-upload-dir"
                ) from None
        return self._own

    def close(self) -> None:
        """Remove the folder and all that is in it."""
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self) -> Path:
        self._place.mkdir(parents=True, exist_ok=True)
        with _locked(self._place):
            for left in self._place.glob(f"{_PREFIX}*"):
                _remove_unowned(left)
            own = Path(tempfile.mkdtemp(dir=self._place, prefix=_PREFIX)).resolve()
            self._lock = os.open(own, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return own


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other endpoints from making or removing folders in it meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_unowned(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
        logger.info("uploads of an ended endpoint removed folder=%s", folder)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
