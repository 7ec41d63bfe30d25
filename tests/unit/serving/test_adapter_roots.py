"""Adapters load from allowed folders only, whatever way a path takes there."""

from pathlib import Path

import pytest

from serving.adapter_roots import AdapterRoots
from serving.errors import AdapterError, ForbiddenError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an allowed folder with one adapter in it, beside a forbidden one."""
    (tmp_path / "allowed/mine").mkdir(parents=True)
    (tmp_path / "elsewhere/mine").mkdir(parents=True)
    (tmp_path / "elsewhere/mine/adapter_model.safetensors").write_bytes(b"")
    return tmp_path / "allowed"


def test_a_folder_below_a_root_is_allowed(root):
    """Directly, through dots, and through a link that stays inside."""
    roots = AdapterRoots((root,))
    (root / "link").symlink_to(root / "mine")
    for path in (root / "mine", root / "x/../mine", root / "link"):
        assert roots.resolve(str(path)) == root / "mine"


@pytest.mark.parametrize("way", ["absolute", "dots", "link", "file", "sibling", "root of all"])
def test_no_way_leads_outside(root, way):
    """Absolute paths, dots, links to folders or files, and names that only begin alike."""
    outside = root.parent / "elsewhere/mine"
    (root / "link").symlink_to(outside)
    (root / "mine/adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    (root.parent / "allowed-not").mkdir()
    paths = {
        "absolute": str(outside),
        "dots": f"{root}/../elsewhere/mine",
        "link": f"{root}/link",
        "file": f"{root}/mine",
        "sibling": f"{root}-not",
        "root of all": "/",
    }
    with pytest.raises(ForbiddenError, match="outside the folders"):
        AdapterRoots((root,)).resolve(paths[way])


def test_what_is_outside_is_not_told_from_what_does_not_exist(root):
    """The answer does not say which files this machine has."""
    roots = AdapterRoots((root,))
    for path in (f"{root.parent}/elsewhere", f"{root.parent}/nowhere"):
        with pytest.raises(ForbiddenError, match="outside the folders"):
            roots.resolve(path)


def test_what_is_no_path_is_refused(root):
    """A NUL byte is one clear line."""
    with pytest.raises(AdapterError, match="no path"):
        AdapterRoots((root,)).resolve("nul\0byte")


@pytest.mark.parametrize(
    ("host", "allows_all"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("gpu-box", False),
    ],
)
def test_without_roots_only_loopback_may_load_from_anywhere(host, allows_all):
    """Who can only be asked by this machine's users need not protect its files from them."""
    roots = AdapterRoots.of((), host=host)
    if allows_all:
        assert roots.resolve("/any/where") == Path("/any/where")
    else:
        with pytest.raises(ForbiddenError):
            roots.resolve("/any/where")


def test_given_roots_hold_on_loopback_too(root):
    """A limit that was asked for is kept."""
    with pytest.raises(ForbiddenError):
        AdapterRoots.of((root,), host="127.0.0.1").resolve("/any/where")
