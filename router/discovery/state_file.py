"""The file that keeps what commands have changed of the fleet.

A JSON object: `schema_version` 1, `added` (`model` and `replica`, a replica as in the router's file)
and `withheld` (addresses). It is replaced as a whole, under a lock on a file beside it, so that
several processes may change it and each sees all that the others did.
"""

import fcntl
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.documents import read_document, write_atomically
from planner.errors import DocumentError
from router.config import ReplicaConfig
from router.discovery.amendments import Amendments, Change
from router.discovery.member import ADMIN, Member
from router.errors import StateFileError


class AddedReplica(StrictModel):
    """A replica that a command added."""

    model: Annotated[str, Field(min_length=1)]
    """The base model it serves."""
    replica: ReplicaConfig
    """Its address and settings."""


class StateDocument(StrictModel):
    """What commands have changed."""

    schema_version: Literal[1] = 1
    """Version of the layout."""
    added: tuple[AddedReplica, ...] = ()
    """In the order of the commands."""
    withheld: tuple[str, ...] = ()
    """Addresses that stay out of the fleet."""


class StateFile:
    """Amendments on disk, shared by processes."""

    def __init__(self, path: Path) -> None:
        """Keep them at `path`; the file appears with the first change."""
        self._path = path

    def change(self, change: Change) -> Amendments:
        """Apply `change` to what the file holds, write the outcome if it differs, and return it.

        Raises:
            StateFileError: If the file cannot be read or written.
        """
        try:
            with self._locked():
                before = self._read()
                after = change(before)
                if after != before:
                    write_atomically(self._path, _text(after))
        except DocumentError as error:
            raise StateFileError(str(error)) from None
        return after

    def stamp(self) -> object:
        """Return a value that changes when the file is another."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def _read(self) -> Amendments:
        if not self._path.exists():
            return Amendments()
        document = read_document(self._path, StateDocument)
        added = tuple(Member(each.model, each.replica, ADMIN) for each in document.added)
        return Amendments(added, frozenset(document.withheld))

    @contextmanager
    def _locked(self) -> Generator[None]:
        path = self._path.with_name(f".{self._path.name}.lock")
        try:
            lock = path.open("a")
        except OSError as error:
            problem = f"cannot be locked ({error.strerror}); check the folder"
            raise DocumentError(self._path, problem) from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _text(amendments: Amendments) -> str:
    added = [
        {
            "model": each.model,
            "replica": each.replica.model_dump(mode="json", exclude_defaults=True),
        }
        for each in amendments.added
    ]
    content = {"schema_version": 1, "added": added, "withheld": sorted(amendments.withheld)}
    return json.dumps(content, indent=1) + "\n"
