"""A vector that is mostly zeros as bytes, by the shortest of four encodings.

After a header of 15 bytes stand the positions of the entries that are not zero, then their values:

=========  ==========================================  ==========================================
encoding   positions                                   their bytes
=========  ==========================================  ==========================================
dense      none: every entry is sent                   0
coo        int32 each                                  4 * count
bitmap     one bit an entry                            ceil(length / 8)
gaps       Golomb-Rice codes of the gaps (`rice.py`)   about count (1.5 + log2(length / count)) / 8
=========  ==========================================  ==========================================

Whoever reads knows the vector's length, so nothing a message says can make it allocate more.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError
from finetune.wire import rice
from finetune.wire.values import (
    VALUE_TYPES,
    ValueType,
    pack_values,
    unpack_values,
    values_bytes,
)

Encoding = Literal["dense", "coo", "bitmap", "gaps"]

ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
"""In the order of their numbers in a message; of equal lengths the first is taken."""

Vector = NDArray[np.float32]

VERSION = 1
_HEADER = struct.Struct("<BBBIII")
HEADER_BYTES = _HEADER.size
"""Version, encoding, value type, length, count, checksum of all else."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a message is made of, told by its header.

    Attributes:
        encoding: Of the positions.
        count: Entries sent.
        values_bytes: Length of the values.
        index_bytes: Length of the positions.
    """

    encoding: Encoding
    count: int
    values_bytes: int
    index_bytes: int

    @property
    def total_bytes(self) -> int:
        """Length of the message."""
        return HEADER_BYTES + self.index_bytes + self.values_bytes


def plan(
    vector: Vector, *, value_type: ValueType = "float32", encoding: Encoding | None = None
) -> Sizes:
    """Return what `encode` makes of a vector, by formula: without making it."""
    return _plan(len(vector), _positions(vector), value_type, encoding)


def encode(
    vector: Vector, *, value_type: ValueType = "float32", encoding: Encoding | None = None
) -> bytes:
    """Return a finite vector of fewer than 2**31 entries as bytes.

    Entries whose bits are all zero are not sent, so that -0.0 survives.

    Args:
        vector: Shape (length,).
        value_type: How values travel; see `values.py` for what that costs in precision.
        encoding: How positions travel; by default as makes the message shortest.

    Raises:
        PayloadError: If a value is NaN, infinite or too large for the type.
    """
    if not np.isfinite(vector).all():
        raise PayloadError("holds NaN or infinity")
    positions = _positions(vector)
    sizes = _plan(len(vector), positions, value_type, encoding)
    body = _pack_positions(positions, len(vector), sizes.encoding)
    kept = vector if sizes.encoding == "dense" else vector[positions]
    body += pack_values(kept, value_type)
    numbers = (VERSION, ENCODINGS.index(sizes.encoding), VALUE_TYPES.index(value_type))
    checksum = _checksum(numbers, len(vector), sizes.count, body)
    return _HEADER.pack(*numbers, len(vector), sizes.count, checksum) + body


def decode(data: bytes, *, length: int) -> Vector:
    """Return the vector of `length` entries that `encode` made bytes of.

    Raises:
        PayloadError: If the bytes are no such message; nothing else, whatever the bytes.
    """
    value_type, sizes = _read_header(data, length)
    split = HEADER_BYTES + sizes.index_bytes
    values = unpack_values(data[split:], sizes.count, value_type)
    if sizes.encoding == "dense":
        return values
    packed = data[HEADER_BYTES:split]
    positions = _unpack_positions(packed, sizes.count, length, sizes.encoding)
    vector = np.zeros(length, np.float32)
    vector[positions] = values
    return vector


def sizes_of(data: bytes, *, length: int) -> Sizes:
    """Return what a message for a vector of `length` entries is made of.

    Raises:
        PayloadError: If its header or its length is wrong; its positions and values are not read.
    """
    return _read_header(data, length)[1]


def _positions(vector: Vector) -> NDArray[np.int64]:
    return np.flatnonzero(vector.view(np.uint32))


def _plan(
    length: int, positions: NDArray[np.int64], value_type: ValueType, encoding: Encoding | None
) -> Sizes:
    if encoding is None:
        choices = [_plan(length, positions, value_type, each) for each in ENCODINGS]
        return min(choices, key=lambda sizes: sizes.total_bytes)
    count = length if encoding == "dense" else len(positions)
    if encoding == "gaps":
        index_bytes = rice.coded_bytes(positions)
    else:
        index_bytes = _index_bytes(encoding, length, count)
    return Sizes(encoding, count, values_bytes(count, value_type), index_bytes)


def _index_bytes(encoding: Encoding, length: int, count: int) -> int:
    return {"dense": 0, "coo": 4 * count, "bitmap": -(-length // 8)}[encoding]


def _pack_positions(positions: NDArray[np.int64], length: int, encoding: Encoding) -> bytes:
    if encoding == "dense":
        return b""
    if encoding == "coo":
        return positions.astype("<i4").tobytes()
    if encoding == "gaps":
        return rice.code(positions)
    is_kept = np.zeros(length, np.uint8)
    is_kept[positions] = 1
    return np.packbits(is_kept).tobytes()


def _unpack_positions(
    data: bytes, count: int, length: int, encoding: Encoding
) -> NDArray[np.int64]:
    if encoding == "bitmap":
        flags = np.unpackbits(np.frombuffer(data, np.uint8))
        positions = np.flatnonzero(flags)
    elif encoding == "coo":
        positions = np.frombuffer(data, "<i4").astype(np.int64)
        if (np.diff(positions) <= 0).any():
            raise PayloadError("holds an index twice, or out of order")
    else:
        positions = rice.decode(data, count=count, length=length)
    if len(positions) != count:
        raise PayloadError(f"marks {len(positions)} entries, not {count}")
    if count and not (positions[0] >= 0 and positions[-1] < length):
        raise PayloadError(f"holds an index outside 0 to {length - 1}")
    return positions


def _read_header(data: bytes, length: int) -> tuple[ValueType, Sizes]:
    if len(data) < HEADER_BYTES:
        raise PayloadError(f"is {len(data)} bytes, shorter than its header of {HEADER_BYTES}")
    *numbers, said_length, count, checksum = _HEADER.unpack_from(data)
    version, encoding_number, type_number = numbers
    if version != VERSION:
        raise PayloadError(f"is of version {version}, read is {VERSION}")
    if encoding_number >= len(ENCODINGS) or type_number >= len(VALUE_TYPES):
        raise PayloadError(f"names encoding {encoding_number} and value type {type_number}")
    if said_length != length:
        raise PayloadError(f"is for {said_length} entries, the adapter has {length}")
    encoding, value_type = ENCODINGS[encoding_number], VALUE_TYPES[type_number]
    if count > length or (encoding == "dense" and count != length):
        raise PayloadError(f"counts {count} of {length} entries, {encoding}")
    num_values_bytes = values_bytes(count, value_type)
    index_bytes = len(data) - HEADER_BYTES - num_values_bytes
    if encoding == "gaps":
        is_right = index_bytes >= 0  # how many they are shows when they are read
    else:
        is_right = index_bytes == _index_bytes(encoding, length, count)
    if not is_right:
        raise PayloadError(f"is {len(data)} bytes, which do not hold {count} entries, {encoding}")
    if checksum != _checksum(tuple(numbers), length, count, data[HEADER_BYTES:]):
        raise PayloadError("does not match its checksum; it was damaged on the way")
    return value_type, Sizes(encoding, count, num_values_bytes, index_bytes)


def _checksum(numbers: tuple[int, ...], length: int, count: int, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(_HEADER.pack(*numbers, length, count, 0)))
