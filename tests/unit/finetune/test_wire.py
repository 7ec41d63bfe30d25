"""Sparse vectors as bytes: what goes in comes out, lengths are the formula's, nonsense is refused."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from finetune.errors import PayloadError
from finetune.wire.message import (
    ENCODINGS,
    HEADER_BYTES,
    decode,
    encode,
    plan,
    sizes_of,
)
from finetune.wire.values import VALUE_TYPES

VALUES = st.floats(-1000, 1000, width=32)


@st.composite
def vectors(draw, values=VALUES):
    """Draw vectors of all densities."""
    length = draw(st.integers(1, 400))
    vector = draw(arrays(np.float32, length, elements=values, fill=st.just(0.0)))
    share = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    is_kept = np.random.default_rng(draw(st.integers(0, 99))).random(length) < share
    return np.where(is_kept, vector, np.float32(0))


def repair_checksum(data):
    """Return a message with the checksum that its other bytes ask for."""
    if len(data) < HEADER_BYTES:
        return data
    blank = data[:11] + bytes(4) + data[15:]
    return data[:11] + struct.pack("<I", zlib.crc32(blank)) + data[15:]


def sparse(length, density, seed=0):
    """Return a vector with so large a share of entries that are not zero."""
    generator = np.random.default_rng(seed)
    vector = np.zeros(length, np.float32)
    kept = generator.choice(length, int(length * density), replace=False)
    vector[kept] = generator.normal(size=len(kept))
    return vector


@given(vectors(), st.sampled_from(ENCODINGS))
def test_float32_comes_back_bit_for_bit(vector, encoding):
    """Every encoding gives the vector back, and its length is what the formula said."""
    data = encode(vector, encoding=encoding)
    assert decode(data, length=len(vector)).tobytes() == vector.tobytes()
    sizes = plan(vector, encoding=encoding)
    assert len(data) == sizes.total_bytes == HEADER_BYTES + sizes.index_bytes + sizes.values_bytes
    assert sizes_of(data, length=len(vector)) == sizes


@given(vectors(), st.sampled_from(VALUE_TYPES), st.sampled_from(ENCODINGS))
def test_narrow_values_err_no_more_than_stated(vector, value_type, encoding):
    """Each type keeps its bound; int8's is of the largest value, since 256 share a scale."""
    data = encode(vector, value_type=value_type, encoding=encoding)
    error = np.abs(decode(data, length=len(vector)).astype(np.float64) - vector)
    exact = np.abs(vector.astype(np.float64))
    bounds = {
        "float32": 0 * exact,
        "bfloat16": exact / 256,
        "float16": np.maximum(exact / 2048, 2.0**-25),
        "int8": np.full(len(vector), exact.max() / 254 * (1 + 1e-5) + 1e-44),
    }
    # Below float32's normal numbers bfloat16 has fewer digits, as float32 has.
    assert (error <= bounds[value_type] + (2.0**-133 if value_type == "bfloat16" else 0)).all()
    assert len(data) == plan(vector, value_type=value_type, encoding=encoding).total_bytes


@given(vectors(), st.sampled_from(VALUE_TYPES))
def test_the_cheapest_encoding_is_chosen(vector, value_type):
    """No named encoding is shorter than the default."""
    chosen = len(encode(vector, value_type=value_type))
    assert chosen == min(
        len(encode(vector, value_type=value_type, encoding=encoding)) for encoding in ENCODINGS
    )


@pytest.mark.parametrize("value_type", VALUE_TYPES)
@pytest.mark.parametrize("density", [1.0, 0.25, 1 / 16, 1 / 64, 1 / 512])
def test_lengths_are_those_of_the_reference(density, value_type):
    """4 bytes an index, a bit an entry, or about 1.5 + log2(1/d) bits an index."""
    length = 1 << 16
    vector = sparse(length, density)
    count = int(length * density)
    width = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}[value_type]
    scales = 4 * -(-count // 256) if value_type == "int8" else 0
    by_hand = {"coo": 4 * count, "bitmap": length // 8}
    for encoding, index_bytes in by_hand.items():
        data = encode(vector, value_type=value_type, encoding=encoding)
        assert len(data) == HEADER_BYTES + index_bytes + width * count + scales
    gaps = plan(vector, value_type=value_type, encoding="gaps").index_bytes
    assert gaps <= count * (1.7 + np.log2(1 / density)) / 8 + 2
    if density < 1:
        entropy = -density * np.log2(density) - (1 - density) * np.log2(1 - density)
        assert length * entropy / 8 * 0.97 <= gaps <= length * entropy / 8 * 1.2


def test_a_whole_vector_costs_no_index():
    """At density 1 the default is dense; at 1/4 in float32 a bitmap beats int32 indices."""
    assert plan(sparse(4096, 1.0)).encoding == "dense"
    quarter = sparse(4096, 0.25)
    assert plan(quarter, encoding="bitmap").total_bytes < plan(quarter, encoding="coo").total_bytes


def test_minus_zero_survives():
    """Only entries whose bits are all zero are left out."""
    vector = np.array([0.0, -0.0, 1.0], np.float32)
    assert np.signbit(decode(encode(vector, encoding="gaps"), length=3)).tolist() == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_no_message_is_made_of_nan(value):
    """The sender learns it, not the receiver."""
    with pytest.raises(PayloadError, match="NaN or infinity"):
        encode(np.array([1, value], np.float32))


def test_a_value_too_large_for_its_type_is_named():
    """float16 ends at 65504."""
    with pytest.raises(PayloadError, match=r"holds 7e\+04, which does not fit float16"):
        encode(np.array([7e4], np.float32), value_type="float16")


@given(st.binary(max_size=200), st.integers(1, 1000))
def test_random_bytes_are_refused(data, length):
    """Whatever the bytes, the only exception is ours."""
    with pytest.raises(PayloadError):
        decode(data, length=length)


@given(
    vectors(),
    st.sampled_from(ENCODINGS),
    st.sampled_from(VALUE_TYPES),
    st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(-3, 3),
    st.booleans(),
)
def test_damaged_messages_decode_or_are_refused(
    vector, encoding, value_type, changes, growth, is_repaired
):
    """With the checksum repaired too: a finite vector of the right length, or our one exception."""
    damaged = bytearray(encode(vector, value_type=value_type, encoding=encoding))
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    damaged = damaged[:growth] if growth < 0 else damaged + bytes(growth)
    if is_repaired:
        damaged = repair_checksum(bytes(damaged))
    try:
        decoded = decode(bytes(damaged), length=len(vector))
    except PayloadError:
        return
    assert decoded.shape == vector.shape
    assert np.isfinite(decoded).all()


@given(vectors(), st.integers(0, 10_000), st.integers(1, 255))
def test_one_wrong_byte_is_always_noticed(vector, place, change):
    """The checksum covers the header too."""
    data = bytearray(encode(vector))
    data[place % len(data)] ^= change
    with pytest.raises(PayloadError):
        decode(bytes(data), length=len(vector))


def made(encoding=1, value_type=0, length=8, count=2, body=b"", version=1):
    """Return a message with a right checksum and whatever else is asked for."""
    header = struct.pack("<BBBIII", version, encoding, value_type, length, count, 0)
    return repair_checksum(header + body)


TWO = struct.pack("<ff", 1, 2)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "shorter than its header"),
        (made(version=2), "is of version 2, read is 1"),
        (made(encoding=9), "names encoding 9"),
        (made(value_type=9), "value type 9"),
        (made(length=9), "is for 9 entries, the adapter has 8"),
        (made(count=9), "counts 9 of 8 entries"),
        (made(encoding=0, count=7), "counts 7 of 8 entries, dense"),
        (made(body=TWO), "do not hold 2 entries, coo"),
        (made(body=struct.pack("<ii", 1, 1) + TWO), "an index twice, or out of order"),
        (made(body=struct.pack("<ii", 2, 1) + TWO), "an index twice, or out of order"),
        (made(body=struct.pack("<ii", -1, 1) + TWO), "an index outside 0 to 7"),
        (made(body=struct.pack("<ii", 1, 8) + TWO), "an index outside 0 to 7"),
        (made(body=struct.pack("<ii", 0, 1) + struct.pack("<ff", 1, np.nan)), "holds NaN"),
        (made(encoding=2, body=b"\x01" + TWO), "marks 1 entries, not 2"),
        (made(encoding=3, body=b"\x20" + bytes(8) + TWO), "has 32 bits a remainder"),
        (made(encoding=3, body=b"\x00\x80" + TWO), "codes 1 gaps, not 2"),
        (made(encoding=3, body=b"\x00\xc0\x00" + TWO), "codes 2 gaps, not 2"),
        (made(encoding=3, body=b"\x04\xff\xc0" + TWO), "an index outside 0 to 7"),
        (made(encoding=3, body=b"\x03\x00\x06" + TWO), "has a gap beyond the 8 entries"),
        (made(encoding=3, body=TWO), "0 bytes of gaps, which do not fit 2"),
        (made(encoding=3, body=b"\x08" + TWO), "1 bytes of gaps, which do not fit 2"),
        (made(encoding=3, body=bytes(9) + TWO), "9 bytes of gaps, which do not fit 2"),
        (made(encoding=0, count=8, body=4 * TWO)[:-1] + b"\x41", "does not match its checksum"),
    ],
)
def test_a_malformed_message_is_refused_with_its_reason(data, says):
    """The reason names what is wrong."""
    with pytest.raises(PayloadError, match="payload .*" + says):
        decode(data, length=8)


def test_a_message_cannot_claim_more_than_the_adapter_has():
    """A header that says four thousand million entries is refused before anything is allocated."""
    data = made(encoding=2, length=2**32 - 1, count=2**32 - 1)
    with pytest.raises(PayloadError, match="the adapter has 8"):
        decode(data, length=8)
