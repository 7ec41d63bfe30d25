"""Texts of unlike kinds that the development environment brings along, one kind a client.

The base model was trained on the standard library's Python alone (its README), so none of these is
known to it. Nothing of the judged clients stands among those the settings are tuned on.
"""

import hashlib
import json
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

JUDGED: Mapping[str, tuple[str, ...]] = {
    "headers": ("torch/include/c10/**/*.h",),
    "stubs": ("mypy/typeshed/stdlib/**/*.pyi",),
    "identities": ("sympy/*/tests/*.py",),
    "prose": ("*.dist-info/METADATA",),
    "builds": ("torch/share/cmake/**/*.cmake",),
    "operators": ("torchgen/packaged/ATen/native/*.yaml",),
    "lexers": ("pygments/lexers/*.py",),
    "graphs": ("networkx/algorithms/**/*.py",),
}
"""By client: which files of the installed packages it has."""

TUNING: Mapping[str, tuple[str, ...]] = {
    "kernels": ("torch/include/ATen/native/**/*.h",),
    "types": ("numpy/**/*.pyi",),
    "checks": ("numpy/_core/tests/*.py",),
    "manuals": ("*/**/*.md", "*/**/*.rst"),
    "runtime": ("mypyc/lib-rt/*.c",),
    "fonts": ("fontTools/ttLib/**/*.py",),
    "precision": ("mpmath/**/*.py",),
    "schemas": ("pydantic/**/*.py",),
}
"""The clients whose texts the settings are chosen on."""

DOCUMENT_CHARACTERS = 8_000
CLIENT_CHARACTERS = 400_000


def write_texts(sources: Mapping[str, tuple[str, ...]], folder: Path) -> dict[str, Path]:
    """Write each client's documents as JSON lines; return the files by client.

    Raises:
        FileNotFoundError: If a client's packages are not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for client, patterns in sources.items():
        documents = list(_documents(patterns))
        if len(documents) < 8:
            raise FileNotFoundError(f"{client}: {patterns} are not installed; run make setup")
        paths[client] = folder / f"{client}.jsonl"
        lines = [json.dumps({"text": document}) + "\n" for document in documents]
        paths[client].write_text("".join(lines), encoding="utf-8")
    return paths


def _documents(patterns: tuple[str, ...]) -> Iterator[str]:
    """Yield pieces of the files in an order of chance that is the same on every machine."""
    root = Path(sysconfig.get_path("purelib"))
    files = sorted({path for pattern in patterns for path in root.glob(pattern)})
    pieces = {piece for path in files for piece in _pieces(path) if piece.strip()}
    total = 0
    # Not the plain hash, by which a job chooses what it holds out.
    for piece in sorted(pieces, key=lambda one: hashlib.sha256(b"order" + one.encode()).digest()):
        if total >= CLIENT_CHARACTERS:
            return
        total += len(piece)
        yield piece


def _pieces(path: Path) -> list[str]:
    """Cut a file at line ends."""
    pieces, size = [""], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        if size + len(line) > DOCUMENT_CHARACTERS and size:
            pieces.append("")
            size = 0
        pieces[-1] += line
        size += len(line)
    return pieces
