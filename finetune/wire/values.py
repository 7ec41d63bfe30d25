"""Values of a sparse vector as bytes: float32, bfloat16, float16, or int8 with a scale a block.

Largest error of one value x (float32 has none):

- bfloat16: |x| / 256
- float16: |x| / 2048, or 2**-25 where that is more (below 2**-14)
- int8: largest |x| of its block / 254, and float32's own rounding
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError

ValueType = Literal["float32", "bfloat16", "float16", "int8"]

VALUE_TYPES: tuple[ValueType, ...] = get_args(ValueType)
"""In the order of their numbers in a message."""

BLOCK_VALUES = 256
"""Values that share one float32 scale in int8."""

_MOST_INT8 = 127

Values = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Codec:
    pack: Callable[[Values], bytes]
    unpack: Callable[[bytes, int], Values]


def values_bytes(count: int, value_type: ValueType) -> int:
    """Return the length of `count` values as bytes."""
    if value_type == "int8":
        return count + 4 * _num_blocks(count)
    return count * (4 if value_type == "float32" else 2)


def pack_values(values: Values, value_type: ValueType) -> bytes:
    """Return finite `values`, shape (count,), as `values_bytes(count, value_type)` bytes.

    Raises:
        PayloadError: If a value is too large for the type.
    """
    data = _CODECS[value_type].pack(values)
    if not np.isfinite(_CODECS[value_type].unpack(data, len(values))).all():
        largest = float(np.abs(values).max())
        raise PayloadError(
            f"holds {largest:.3g}, which does not fit {value_type}; choose a wider value type"
        )
    return data


def unpack_values(data: bytes, count: int, value_type: ValueType) -> Values:
    """Return the values, shape (count,), of bytes of the right length.

    Raises:
        PayloadError: If one is NaN or infinite.
    """
    values = _CODECS[value_type].unpack(data, count)
    if not np.isfinite(values).all():
        raise PayloadError("holds NaN or infinity")
    return values


def _pack_float32(values: Values) -> bytes:
    return values.astype("<f4").tobytes()


def _unpack_float32(data: bytes, count: int) -> Values:
    return np.frombuffer(data, "<f4").astype(np.float32)


def _pack_bfloat16(values: Values) -> bytes:
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    # Round to nearest, ties to even: the carry may go into the exponent, as it should.
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _unpack_bfloat16(data: bytes, count: int) -> Values:
    return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)


def _pack_float16(values: Values) -> bytes:
    with np.errstate(over="ignore"):
        return values.astype("<f2").tobytes()


def _unpack_float16(data: bytes, count: int) -> Values:
    return np.frombuffer(data, "<f2").astype(np.float32)


def _pack_int8(values: Values) -> bytes:
    starts = np.arange(0, len(values), BLOCK_VALUES)
    peaks = np.maximum.reduceat(np.abs(values), starts) if len(values) else values
    scales = (peaks / _MOST_INT8).astype("<f4")
    # A block of subnormal values has a scale of zero, and is sent as zeros.
    divisors = np.where(scales > 0, scales, np.float32(1)).repeat(BLOCK_VALUES)[: len(values)]
    steps = np.clip(np.rint(values / divisors), -_MOST_INT8, _MOST_INT8)
    return scales.tobytes() + steps.astype(np.int8).tobytes()


def _unpack_int8(data: bytes, count: int) -> Values:
    split = 4 * _num_blocks(count)
    scales = np.frombuffer(data[:split], "<f4").astype(np.float32)
    steps = np.frombuffer(data[split:], np.int8).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return steps * scales.repeat(BLOCK_VALUES)[:count]


def _num_blocks(count: int) -> int:
    return -(-count // BLOCK_VALUES)


_CODECS: dict[ValueType, _Codec] = {
    "float32": _Codec(_pack_float32, _unpack_float32),
    "bfloat16": _Codec(_pack_bfloat16, _unpack_bfloat16),
    "float16": _Codec(_pack_float16, _unpack_float16),
    "int8": _Codec(_pack_int8, _unpack_int8),
}
