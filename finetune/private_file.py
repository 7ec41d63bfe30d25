"""Files that nobody but their owner may read."""

import os
import tempfile
from pathlib import Path

from planner.errors import DocumentError


def write_privately(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name of mode 0600, then rename it to `path`.

    Raises:
        DocumentError: If it cannot be written.
    """
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DocumentError(path, f"cannot be written ({error.strerror}); check the disk") from None
