"""Where the traffic log goes, and when its file is set aside for a new one."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, ByteSize, Field

from planner.config import StrictModel


class TrafficLogConfig(StrictModel):
    """A file of lines and its rotation."""

    path: Path
    """Relative to the working directory; the file before this one is `PATH.1`, older ones follow."""
    rotate_bytes: Annotated[ByteSize, Field(ge=4096)] | None = ByteSize(256 * 2**20)
    """From this size on, such as `256MiB`, a new file is begun; null: never."""
    keep: Annotated[int, Field(ge=1, le=999)] = 9
    """How many older files stay; one more and the oldest is deleted."""


def _with_path(value: object) -> object:
    """Read a mere path as a file that is never rotated."""
    if isinstance(value, str | Path):
        return {"path": value, "rotate_bytes": None}
    return value


TrafficLogSetting = Annotated[TrafficLogConfig | None, BeforeValidator(_with_path)]
"""A path, or the whole of it."""
