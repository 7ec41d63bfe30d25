"""Documents cut into chunks that the local model can read, at paragraph ends where there are any.

A chunk is a slice of its document: the chunks of a document, joined, are the document. Its end is
the last paragraph end in the second half of what fits; without one the last line end, sentence end
or space there; without any of these the last character that fits. Chunks are numbered from 1 over
all documents; the same documents and the same size give the same numbers, so `c12` may be cited.
"""

from collections.abc import Sequence
from dataclasses import dataclass

_ENDS = ("\n\n", "\n", ". ", " ")
"""Where to cut, best first."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text the remote model does not see."""

    text: str
    title: str = ""
    """The remote sees this."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A slice of a document."""

    number: int
    """From 1, over all documents."""
    document: int
    """Its document's place, from 0."""
    start: int
    """Its first character's place in the document."""
    text: str

    @property
    def chunk_id(self) -> str:
        """What citations name."""
        return f"c{self.number}"


def cut(documents: Sequence[Document], *, max_bytes: int) -> tuple[Chunk, ...]:
    """Return the chunks of `documents`, each at most `max_bytes` of UTF-8; empty text has none.

    Raises:
        ValueError: If `max_bytes` is below 4, the bytes of one character.
    """
    if max_bytes < 4:
        raise ValueError(f"max_bytes is {max_bytes}; give at least 4")
    chunks: list[Chunk] = []
    for place, document in enumerate(documents):
        start = 0
        while start < len(document.text):
            end = _end(document.text, start, max_bytes)
            piece = document.text[start:end]
            chunks.append(Chunk(len(chunks) + 1, place, start, piece))
            start = end
    return tuple(chunks)


def _end(text: str, start: int, max_bytes: int) -> int:
    longest = text[start : start + max_bytes]
    if not longest.isascii():
        encoded = longest.encode("utf-8", "surrogatepass")[:max_bytes]
        longest = longest[: _num_whole_characters(encoded)]
    if start + len(longest) == len(text):
        return len(text)
    half = len(longest) // 2
    for mark in _ENDS:
        found = longest.rfind(mark, half)
        if found >= 0:
            return start + found + len(mark)
    return start + len(longest)


def _num_whole_characters(encoded: bytes) -> int:
    """Return how many characters end within `encoded`, whose last may be cut."""
    starts = sum(byte & 0xC0 != 0x80 for byte in encoded)
    for back in range(1, min(4, len(encoded)) + 1):
        first = encoded[-back]
        if first & 0xC0 != 0x80:
            length = 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4
            return starts if length == back else starts - 1
    return starts
