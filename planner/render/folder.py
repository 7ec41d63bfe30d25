"""Writing a folder of files whole or not at all."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from planner.errors import RenderError


def check_folder(folder: Path, *, force: bool) -> None:
    """Check, before the work, that `folder` may be written.

    Raises:
        RenderError: If it is a file, or holds something and `force` is not set, or could not be
            replaced without taking more than itself away.
    """
    place = folder.absolute().resolve()
    if folder.exists() and not folder.is_dir():
        raise RenderError(f"{folder} is a file; name a folder with --output")
    if place in (Path.home().resolve(), Path.cwd()) or place in Path.cwd().parents:
        raise RenderError(
            f"{folder} holds the working directory or your home; name a new folder with --output"
        )
    if not force and folder.is_dir() and any(folder.iterdir()):
        raise RenderError(
            f"{folder} is not empty; name another folder with --output, or replace it with --force"
        )


def write_folder(folder: Path, files: Mapping[str, str], *, force: bool = False) -> None:
    """Write `files` into a new folder beside `folder`, then put it in its place.

    Readers see the old folder or the new one, never half of either; with `force` what the old one
    held is gone.

    Args:
        folder: Where; folders above it are made.
        files: Path below it to text; scripts (`.sh`) become executable.
        force: Replace a folder that is not empty.

    Raises:
        RenderError: If `check_folder` refuses it, or it cannot be written.
    """
    check_folder(folder, force=force)
    place = folder.absolute().resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
            new, old = Path(scratch, "new"), Path(scratch, "old")
            _write(new, files)
            if place.is_dir():
                place.rename(old)
            try:
                new.rename(place)
            except OSError:
                if old.is_dir():
                    old.rename(place)
                raise
    except OSError as error:
        raise RenderError(
            f"{folder} cannot be written ({error.strerror}); check the folder and the disk"
        ) from None


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            path.chmod(0o755)
