"""Lengths of the sequences to train on: a list or a histogram, filtered, padded, cut into batches."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from planner.documents import read_content, read_text
from planner.errors import DocumentError

MOST_SEQUENCES = 10_000_000


@dataclass(frozen=True, slots=True)
class AdmittedLengths:
    """What is left to train on, in order, and how much was left out."""

    lengths: tuple[int, ...]
    """Tokens of each sequence, padded."""
    num_dropped_long: int
    """Sequences above the longest admitted."""
    num_dropped_empty: int
    """Sequences without a token."""

    def batches(self, size: int) -> Iterator[tuple[int, ...]]:
        """Give global batches in order; the last may hold fewer sequences."""
        for start in range(0, len(self.lengths), size):
            yield self.lengths[start : start + size]


def read_lengths(path: Path, *, seed: int = 0) -> list[int]:
    """Return the lengths in a file, in tokens.

    Either a list, one whole number a line, in the order of training; or a histogram: a YAML or JSON
    mapping from length to count, drawn in an order that `seed` decides.

    Raises:
        DocumentError: If the file cannot be read or holds something else, or nothing.
    """
    is_histogram = path.suffix in (".yaml", ".yml", ".json")
    lengths = _histogram(path, seed) if is_histogram else _listed(path)
    if not lengths:
        raise DocumentError(path, "holds no length; give one a line")
    return lengths


def admit(
    lengths: Sequence[int], *, most_tokens: int | None = None, pad_to: int = 1
) -> AdmittedLengths:
    """Pad lengths to multiples of `pad_to`; leave out empty sequences and those above `most_tokens`.

    Args:
        lengths: Tokens of each sequence.
        most_tokens: Longest sequence after padding; nothing: any.
        pad_to: Multiple.

    Raises:
        ValueError: If a length is below 0, `pad_to` below 1, or nothing is left.
    """
    if pad_to < 1:
        raise ValueError(f"sequences cannot be padded to multiples of {pad_to}; give 1 or more")
    if lengths and min(lengths) < 0:
        raise ValueError(f"a sequence of {min(lengths)} tokens is none; give 0 or more")
    padded = [-(-length // pad_to) * pad_to for length in lengths if length > 0]
    kept = tuple(n for n in padded if most_tokens is None or n <= most_tokens)
    if not kept:
        raise ValueError(
            f"none of {len(lengths)} sequences holds 1 to {most_tokens or 'any number of'} tokens "
            f"when padded to multiples of {pad_to}; give others, or admit longer ones"
        )
    return AdmittedLengths(kept, len(padded) - len(kept), len(lengths) - len(padded))


def _listed(path: Path) -> list[int]:
    lengths = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if text := line.strip():
            lengths.append(_whole(path, f"line {number}", text))
    return lengths


def _histogram(path: Path, seed: int) -> list[int]:
    counts = {
        _whole(path, "a length", length): _whole(path, f"the count of length {length}", count)
        for length, count in read_content(path).items()
    }
    if sum(counts.values()) > MOST_SEQUENCES:
        raise DocumentError(
            path, f"counts {sum(counts.values())} sequences; give at most {MOST_SEQUENCES}"
        )
    lengths = [length for length, count in sorted(counts.items()) for _ in range(count)]
    random.Random(seed).shuffle(lengths)
    return lengths


def _whole(path: Path, where: str, value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 12:
        raise DocumentError(path, f"{where} is {text[:40]!r}; give a whole number of at least 0")
    return int(text)
