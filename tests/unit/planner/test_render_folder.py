"""Folders are written whole or not at all."""

from pathlib import Path

import pytest

from planner.errors import RenderError
from planner.render.folder import check_folder, write_folder

FILES = {"a.yaml": "a\n", "deep/b.sh": "#!/bin/sh\n"}


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_arrive_and_scripts_run(tmp_path: Path) -> None:
    """Folders above are made, an empty one is taken, nothing is left beside it."""
    folder = tmp_path / "x" / "out"
    folder.mkdir(parents=True)
    write_folder(folder, FILES)
    assert contents(folder) == FILES
    assert (folder / "deep" / "b.sh").stat().st_mode & 0o111
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_folder_that_holds_something_needs_force(tmp_path: Path) -> None:
    """Without --force it is left as it is; with it, what it held is gone."""
    folder = tmp_path / "out"
    write_folder(folder, {"old.yaml": "old\n"})
    with pytest.raises(RenderError, match="is not empty; name another folder"):
        write_folder(folder, FILES)
    assert contents(folder) == {"old.yaml": "old\n"}
    write_folder(folder, FILES, force=True)
    assert contents(folder) == FILES


def test_a_failure_leaves_the_old_folder(tmp_path: Path) -> None:
    """A file that cannot be written ends the whole, and nothing is left of it."""
    folder = tmp_path / "out"
    write_folder(folder, FILES)
    with pytest.raises(RenderError, match="cannot be written"):
        write_folder(folder, {"a": "x", "a/b": "y"}, force=True)
    assert contents(folder) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """Its name is refused before any work."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RenderError, match="is a file"):
        check_folder(tmp_path / "file", force=True)


def test_the_working_directory_is_never_replaced(tmp_path: Path, monkeypatch) -> None:
    """Nor what holds it, nor the home: --force must not take more than a rendered folder."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in (Path(), inside, tmp_path, tmp_path / "home"):
        with pytest.raises(RenderError, match="working directory or your home"):
            check_folder(folder, force=True)
