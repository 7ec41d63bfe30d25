"""Prompts on disk, only where the configuration asks for them, readable by their owner alone."""

import json
from pathlib import Path

from router.base import Query
from router.line_file import LineFile
from router.traffic_log import RequestRecord

_KEPT = ("messages", "prompt", "tools")
_MODE = 0o600


class PromptStore:
    """A file of one JSON line a request: arrival, `request_id`, `tenant`, `model` and the prompt.

    Raises:
        StartError: If the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = LineFile(path, setting="governance.store_prompts", mode=_MODE)
        path.chmod(_MODE)

    @property
    def num_lost_lines(self) -> int:
        """Lines that the disk did not take."""
        return self._file.num_lost_lines

    def keep(self, record: RequestRecord, query: Query) -> None:
        """Write what the client sent as its prompt."""
        content = {
            "schema_version": 1,
            "arrival_unix_seconds": record.arrival_unix_seconds,
            "request_id": record.request_id,
            "tenant": record.tenant,
            "model": query.model,
        }
        content |= {name: query.fields[name] for name in _KEPT if name in query.fields}
        self._file.write(json.dumps(content, separators=(",", ":")))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
