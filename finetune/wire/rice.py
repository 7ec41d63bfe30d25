"""Golomb-Rice codes of a sorted list of positions: the gaps between them, without a loop over them.

A gap g, the entries skipped before a position, is `g >> bits` in unary and its lowest `bits` bits
as they are. Each block of 128 gaps has its own `bits`, a byte each, since tensors differ in how
much of them is kept: of a trained adapter's largest weights that takes a fifth off the code, of its
largest changes a hundredth. These bytes stand first, then all remainders, then all unary parts, so
both ends work on whole arrays.

Source: Golomb 1966, "Run-length encodings"; Rice and Plaunt 1971.
"""

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError

BLOCK_GAPS = 128
"""Gaps that share a number of remainder bits."""

MOST_BITS = 31
"""Most bits of a remainder: vectors are shorter than 2**31."""

Positions = NDArray[np.int64]


def coded_bytes(positions: Positions) -> int:
    """Return the length of `code(positions)`."""
    gaps = _gaps(positions)
    bits = _best_bits(gaps)
    each = _of_each_gap(bits, len(gaps))
    num_unary = len(gaps) + int((gaps >> each).sum())
    return len(bits) + _whole_bytes(int(each.sum())) + _whole_bytes(num_unary)


def code(positions: Positions) -> bytes:
    """Return strictly increasing `positions`, shape (count,), as bytes."""
    gaps = _gaps(positions)
    bits = _best_bits(gaps)
    each = _of_each_gap(bits, len(gaps))
    starts = np.cumsum(each) - each
    remainders = np.zeros(int(each.sum()), np.uint8)
    for column in range(int(each.max(initial=0))):
        has = each > column
        remainders[starts[has] + column] = (gaps[has] >> (each[has] - 1 - column)) & 1
    ends = np.cumsum((gaps >> each) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    unary[ends] = 1
    return bits.tobytes() + np.packbits(remainders).tobytes() + np.packbits(unary).tobytes()


def decode(data: bytes, *, count: int, length: int) -> Positions:
    """Return the `count` positions that `data` codes, for a vector of `length` entries.

    Memory stays within a few times `length + count` words whatever the data says. The last
    position may lie beyond the end: the caller looks.

    Raises:
        PayloadError: If the data is not the code of so many gaps, or one is beyond `length`.
    """
    bits = np.frombuffer(data, np.uint8, min(_num_blocks(count), len(data)))
    if bits.max(initial=0) > MOST_BITS:
        raise PayloadError(f"has {bits.max()} bits a remainder, at most {MOST_BITS} are read")
    each = _of_each_gap(bits, count)
    num_bits = int(each.sum())
    middle = _num_blocks(count) + _whole_bytes(num_bits)
    if not 0 <= len(data) - middle <= _whole_bytes(length + count):
        raise PayloadError(f"has {len(data)} bytes of gaps, which do not fit {count} positions")
    ends = np.flatnonzero(np.unpackbits(np.frombuffer(data[middle:], np.uint8)))
    used = int(ends[-1]) + 1 if len(ends) else 0
    if len(ends) != count or _whole_bytes(used) != len(data) - middle:
        raise PayloadError(f"codes {len(ends)} gaps, not {count}")
    quotients = np.diff(ends, prepend=-1) - 1
    if (quotients > length >> each).any():
        raise PayloadError(f"has a gap beyond the {length} entries")
    packed = np.frombuffer(data[len(bits) : middle], np.uint8)
    remainders = np.unpackbits(packed, count=num_bits)
    starts = np.cumsum(each) - each
    gaps = quotients << each
    for column in range(int(each.max(initial=0))):
        has = each > column
        read = remainders[starts[has] + column].astype(np.int64)
        gaps[has] |= read << (each[has] - 1 - column)
    return np.cumsum(gaps + 1) - 1


def _best_bits(gaps: Positions) -> NDArray[np.uint8]:
    """Return for each block the number of remainder bits that makes its code shortest."""
    if not len(gaps):
        return np.zeros(0, np.uint8)
    starts = np.arange(0, len(gaps), BLOCK_GAPS)
    counts = np.diff(starts, append=len(gaps))
    most = min(MOST_BITS, int(gaps.max()).bit_length())
    costs = [np.add.reduceat(gaps >> bits, starts) + bits * counts for bits in range(most + 1)]
    best: NDArray[np.uint8] = np.argmin(costs, axis=0).astype(np.uint8)
    return best


def _of_each_gap(bits: NDArray[np.uint8], count: int) -> Positions:
    return bits.astype(np.int64).repeat(BLOCK_GAPS)[:count]


def _gaps(positions: Positions) -> Positions:
    return np.diff(positions, prepend=-1) - 1


def _num_blocks(count: int) -> int:
    return -(-count // BLOCK_GAPS)


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)
