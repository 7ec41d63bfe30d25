"""Golomb-Rice codes of a sorted list of positions: the gaps between them, without a loop over them.

A gap g, the entries skipped before a position, is `g >> bits` in unary and its lowest `bits` bits
as they are. All remainders stand first, at a place that their number tells, then all unary parts:
so both ends work on whole arrays.

Source: Golomb 1966, "Run-length encodings"; Rice and Plaunt 1971.
"""

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError

MOST_BITS = 31
"""Most bits of a remainder: vectors are shorter than 2**31."""

Positions = NDArray[np.int64]


def best_bits(positions: Positions) -> int:
    """Return the number of remainder bits that makes the code of `positions` shortest.

    The mean gap tells it within one or two; the exact lengths there decide.
    """
    if not len(positions):
        return 0
    guess = int(max(1.0, positions[-1] / len(positions))).bit_length() - 1
    near = range(max(0, guess - 2), min(MOST_BITS, guess + 2) + 1)
    return min(near, key=lambda bits: coded_bytes(positions, bits))


def coded_bytes(positions: Positions, bits: int) -> int:
    """Return the length of `code(positions, bits)`."""
    num_unary = len(positions) + int((_gaps(positions) >> bits).sum())
    return _whole_bytes(len(positions) * bits) + _whole_bytes(num_unary)


def code(positions: Positions, bits: int) -> bytes:
    """Return strictly increasing `positions`, shape (count,), as bytes."""
    gaps = _gaps(positions)
    remainders = np.empty((len(gaps), bits), np.uint8)
    for column in range(bits):
        remainders[:, column] = (gaps >> (bits - 1 - column)) & 1
    ends = np.cumsum((gaps >> bits) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    unary[ends] = 1
    return np.packbits(remainders).tobytes() + np.packbits(unary).tobytes()


def decode(data: bytes, *, count: int, bits: int, length: int) -> Positions:
    """Return the `count` positions, below `length`, that `data` codes.

    Memory stays within a few times `length + count` bytes whatever the data says.

    Raises:
        PayloadError: If the data is not the code of so many positions below `length`.
    """
    if bits > MOST_BITS:
        raise PayloadError(f"has {bits} bits a remainder, at most {MOST_BITS} are read")
    split = _whole_bytes(count * bits)
    if len(data) < split or len(data) - split > _whole_bytes(length + count):
        raise PayloadError(f"has {len(data)} bytes of gaps, which do not fit {count} positions")
    unary = np.unpackbits(np.frombuffer(data[split:], np.uint8))
    ends = np.flatnonzero(unary)
    used = int(ends[-1]) + 1 if len(ends) else 0
    if len(ends) != count or _whole_bytes(used) != len(data) - split:
        raise PayloadError(f"codes {len(ends)} gaps, not {count}")
    quotients = np.diff(ends, prepend=-1) - 1
    if (quotients > length >> bits).any():
        raise PayloadError(f"has a gap beyond the {length} entries")
    remainders = np.unpackbits(np.frombuffer(data[:split], np.uint8), count=count * bits)
    gaps = quotients << bits
    for column in range(bits):
        gaps |= remainders[column::bits].astype(np.int64) << (bits - 1 - column)
    return np.cumsum(gaps + 1) - 1


def _gaps(positions: Positions) -> Positions:
    return np.diff(positions, prepend=-1) - 1


def _whole_bytes(bits: int) -> int:
    return -(-bits // 8)
