"""Transcripts in documents: commands with what they print, checked against what they print now."""

import re
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d[\d,.]*")
_SPACES_AND_RULES = re.compile(r"[\s─━┄-]+")


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a transcript and the lines shown under it."""

    line: str
    expected: tuple[str, ...]


def commands(document: Path) -> list[Command]:
    """Return the commands of all `console` blocks, in order."""
    found = []
    for block in _BLOCK.findall(document.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, *expected = part.rstrip().splitlines()
            found.append(Command(line, tuple(expected)))
    return found


def shape(line: str) -> str:
    """Return a line without what varies: every number becomes `#`, every rule one space."""
    return _NUMBER.sub("#", _SPACES_AND_RULES.sub(" ", line)).strip()


def missing_lines(expected: tuple[str, ...], printed: str) -> list[str]:
    """Return the expected lines that do not occur in the output in their order; `...` is free."""
    remaining = iter([shape(line) for line in printed.splitlines()])
    return [
        line
        for line in expected
        if shape(line) and line.strip() != "..." and shape(line) not in remaining
    ]
