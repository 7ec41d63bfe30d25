"""The API key that a command sends: from a file or the environment, never from its words."""

import re
from pathlib import Path

from planner.documents import read_text
from planner.errors import DocumentError

_KEY = re.compile(r"[!-~]+")
"""Printable ASCII without white space: what a header can carry unchanged."""


def read_key(path: Path) -> str:
    """Return the first key of a file of keys, one a line; lines that begin with `#` are skipped.

    Raises:
        DocumentError: If the file cannot be read or holds none; the key itself is never quoted.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    key = next((line for line in lines if line and not line.startswith("#")), "")
    if not is_key(key):
        raise DocumentError(
            path, "begins with no key; write one line of printable ASCII without white space"
        )
    return key


def is_key(word: str) -> bool:
    """Whether a word can be sent as a key."""
    return _KEY.fullmatch(word) is not None
