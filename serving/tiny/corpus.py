"""The text the tiny family learns: the running Python's own standard library.

Whole files are held out by the hash of their path, before anything else looks at the text. Held-out
files that share too many word runs with training files are dropped, so that the held-out loss
measures prediction and not recall.
"""

import ast
import hashlib
import io
import sysconfig
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "__pycache__", "_bundled"}
)
GENERATED_MARKS = ("gencodec", "build-time")
"""Words in the head of a file that mark machine-written tables (character maps, build settings)."""

HELD_OUT_ONE_IN = 20
SHINGLE_WORDS = 8
NEAR_DUPLICATE_FRACTION = 0.25
LONGEST_ANSWER_CHARACTERS = 2000


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One source file: its path below the standard library, and its text."""

    path: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Corpus:
    """Training and held-out files, and the held-out files dropped as near-duplicates."""

    training: tuple[SourceFile, ...]
    held_out: tuple[SourceFile, ...]
    near_duplicates: tuple[SourceFile, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over the paths and digests of the training files, in order."""
        lines = "".join(f"{file.path} {file.digest}\n" for file in self.training)
        return hashlib.sha256(lines.encode()).hexdigest()


def standard_library() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_sources(folder: Path) -> list[SourceFile]:
    """Return the hand-written Python files below `folder`, sorted by path.

    Test folders and machine-written tables are left out.
    """
    files = []
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            continue
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n")
        head = text[:400]
        if text.strip() and not any(mark in head for mark in GENERATED_MARKS):
            files.append(SourceFile(relative.as_posix(), text))
    return files


def split(files: Iterable[SourceFile]) -> Corpus:
    """Split files into training and held-out by the SHA-256 of their path, one in twenty held out.

    A held-out file of whose 8-word runs more than a quarter occur in training files is dropped.
    """
    training: list[SourceFile] = []
    candidates: list[SourceFile] = []
    for file in files:
        held_out = int(hashlib.sha256(file.path.encode()).hexdigest(), 16) % HELD_OUT_ONE_IN == 0
        (candidates if held_out else training).append(file)
    known = {shingle for file in training for shingle in _shingles(file.text)}
    held_out_files: list[SourceFile] = []
    near_duplicates: list[SourceFile] = []
    for file in candidates:
        shingles = set(_shingles(file.text))
        shared = len(shingles & known) / max(len(shingles), 1)
        (near_duplicates if shared > NEAR_DUPLICATE_FRACTION else held_out_files).append(file)
    return Corpus(tuple(training), tuple(held_out_files), tuple(near_duplicates))


def _shingles(text: str) -> Iterator[int]:
    words = text.split()
    for start in range(max(len(words) - SHINGLE_WORDS + 1, 1)):
        yield hash(tuple(words[start : start + SHINGLE_WORDS]))


def conversations(files: Iterable[SourceFile], *, one_in: int) -> Iterator[list[dict[str, str]]]:
    """Yield chats made of documented functions: the docstring asks, the source answers.

    Args:
        files: Training files.
        one_in: Keep one function in so many, chosen by the hash of its source.
    """
    for file in files:
        try:
            tree = ast.parse(file.text)
        except SyntaxError:
            continue  # deliberately broken sources (lib2to3) still train the plain text
        lines = io.StringIO(file.text, newline="").readlines()
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            question = ast.get_docstring(node)
            answer = textwrap.dedent(_source_of(node, lines))
            if not question or len(answer) > LONGEST_ANSWER_CHARACTERS:
                continue
            if int(hashlib.sha256(answer.encode()).hexdigest(), 16) % one_in == 0:
                yield [
                    {"role": "user", "content": question.split("\n\n")[0]},
                    {"role": "assistant", "content": answer},
                ]


def _source_of(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> str:
    """Return the text of a function, its first line's indentation included.

    `ast.get_source_segment` does this too, but splits the whole file anew for each function.
    """
    *body, last = lines[node.lineno - 1 : node.end_lineno]
    return "".join(body) + last.encode()[: node.end_col_offset].decode()
