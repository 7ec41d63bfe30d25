"""Puts large memory on huge pages, which a decode step reads weights from faster.

A step of one row reads every weight once: with pages of 4 KiB the processor looks up half a million
addresses for 2 GB. Linux backs memory with 2 MiB pages only where it is asked to, which is a
process's own choice under the usual setting "madvise". The libraries that hold packed weights do
not show where, so every large private mapping of the process is asked for.

Source: madvise(2), MADV_COLLAPSE (Linux 6.1); measured by `tests/benchmarks/kernels.py`.
"""

import ctypes
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

HUGE_PAGE_BYTES = 2 << 20
WORTHWHILE_BYTES = 256 << 20
"""Weights from which on it pays: less stays in the caches of many processors."""

MOST_SECONDS = 120.0
"""After this no further piece is moved: some 12 GB on a busy machine, 40 on a quiet one."""

_PIECE_BYTES = 256 << 20
"""Memory of one system call."""
_COLLAPSE = 25
_PROCESS = Path("/proc/self")
Advise = Callable[[int, int, int], int]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the request."""

    asked_bytes: int
    huge_bytes: int
    """Memory of the process that is on huge pages now."""


def collapse(
    *,
    process: Path = _PROCESS,
    advise: Advise | None = None,
    most_seconds: float = MOST_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> Outcome:
    """Move the process's large anonymous memory to huge pages, and say before and after what happens.

    Call it when the weights are in place. It copies each page once and changes no content; a busy
    machine takes 10 seconds for each GB. Where the system has no huge pages memory stays as it is.

    Args:
        process: Linux's folder about this process; a missing file is no support.
        advise: Stands in for the system call `madvise(address, length, advice)`.
        most_seconds: What is not moved by then stays on small pages.
        clock: Seconds, for tests.
    """
    start = clock()
    asked_bytes = 0
    try:
        advise = advise or system_advise()
        ranges = list(huge_ranges((process / "maps").read_text().splitlines()))
        wanted_bytes = sum(length for _, length in ranges)
        logger.info("huge pages moving bytes=%d most_seconds=%.0f", wanted_bytes, most_seconds)
        # The call fails where any part of a range is untouched, so only the count afterwards tells.
        for address, length in ranges:
            if clock() - start >= most_seconds:
                break
            advise(address, length, _COLLAPSE)
            asked_bytes += length
        huge_bytes = _huge_bytes((process / "smaps_rollup").read_text())
    except (OSError, AttributeError) as error:
        logger.info("huge pages supported=no reason=%s", error)
        return Outcome(0, 0)
    logger.info(
        "huge pages supported=%s asked_bytes=%d huge_bytes=%d left_bytes=%d seconds=%.1f",
        "yes" if huge_bytes else "no",
        asked_bytes,
        huge_bytes,
        wanted_bytes - asked_bytes,
        clock() - start,
    )
    return Outcome(asked_bytes, huge_bytes)


def _huge_bytes(rollup: str) -> int:
    """Return what a `smaps_rollup` says of anonymous memory on huge pages."""
    found = (line.split() for line in rollup.splitlines() if line.startswith("AnonHugePages:"))
    return sum(int(kibibytes) << 10 for _, kibibytes, _ in found)


def huge_ranges(lines: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Yield address and length of pieces of private, unnamed memory, in whole huge pages.

    Args:
        lines: Of `/proc/self/maps`: range, permissions, offset, device, inode, name if any.
    """
    for line in lines:
        place, permissions, *others = line.split()
        is_named = len(others) > 3 and others[3] != "[heap]"
        if is_named or not permissions.startswith("rw-p"):
            continue
        first, last = (int(end, 16) for end in place.split("-"))
        first = -(-first // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        length = (last - first) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        for piece in range(first, first + length, _PIECE_BYTES):
            yield piece, min(_PIECE_BYTES, first + length - piece)


def system_advise() -> Advise:
    """Return the system call; AttributeError where the system's library has none."""
    function = ctypes.CDLL(None).madvise
    function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    function.restype = ctypes.c_int
    advise: Advise = function
    return advise
