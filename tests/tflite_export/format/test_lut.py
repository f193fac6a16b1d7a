"""Look-up tables of microcontrollers are read exactly, or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tflite_export.format.lut import (
    HEADER_BYTES,
    decode_lut,
    encode_lut,
    look_ups,
)

_PER_TENSOR = 15


def _encode(codes, axis, index_bits):
    """The format written out: indices, highest bit first, and the tables."""
    rows = (
        [codes.ravel()]
        if axis == _PER_TENSOR
        else list(np.moveaxis(codes, axis, 0))
    )
    values = [np.unique(row) for row in rows]
    stride = max(v.size for v in values)
    tables = np.zeros((len(rows), stride), np.int8)
    indices = np.zeros(codes.shape, np.int64)
    for channel, held in enumerate(values):
        tables[channel, : held.size] = held
        if axis == _PER_TENSOR:
            indices = np.searchsorted(held, codes)
        else:
            place = [slice(None)] * codes.ndim
            place[axis] = channel
            indices[tuple(place)] = np.searchsorted(held, rows[channel])
    text = "".join(f"{i:0{index_bits}b}" for i in indices.ravel())
    text += "0" * (-len(text) % 8)
    encoded = [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    header = np.zeros(HEADER_BYTES, np.uint8)
    header[[1, 4, 5, 6]] = 1, 1, axis << 4 | index_bits, stride
    ancillary = np.concatenate([header, tables.ravel().view(np.uint8)])
    return np.array(encoded, np.uint8), ancillary


@given(
    st.data(),
    st.integers(1, 7),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_decode_is_the_inverse_of_the_format(data, index_bits, shape):
    axis = data.draw(st.sampled_from([0, len(shape) - 1, _PER_TENSOR]))
    seed = data.draw(st.integers(0, 2**16))
    rng = np.random.default_rng(seed)
    values = rng.choice(np.arange(-127, 128), 2**index_bits)
    codes = rng.choice(values, shape).astype(np.int8)

    encoded, ancillary = _encode(codes, axis, index_bits)

    decoded = decode_lut(encoded, ancillary, shape=tuple(shape))
    assert np.array_equal(decoded, codes)
    assert decoded.dtype == np.int8


@given(
    st.integers(1, 200),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(0, 2**16),
)
def test_encode_writes_the_format_in_the_sizes_it_says(levels, shape, seed):
    rng = np.random.default_rng(seed)
    codes = rng.choice(rng.integers(-128, 128, levels), shape).astype(np.int8)

    for axis in (None, 0, len(shape) - 1):
        for held in look_ups(codes, axis):
            encoded, ancillary = encode_lut(codes, held)

            assert encoded.size == held.index_bytes(codes.size)
            assert ancillary.size == held.table_bytes
            place = _PER_TENSOR if held.axis is None else held.axis
            expected = _encode(codes, place, held.index_bits)
            assert np.array_equal(encoded, expected[0])
            # One table for all has no distance to the next one.
            expected[1][6] *= held.axis is not None
            assert np.array_equal(ancillary, expected[1])
            decoded = decode_lut(encoded, ancillary, shape=codes.shape)
            assert np.array_equal(decoded, codes)


def test_more_values_than_an_index_can_name_have_no_table():
    codes = np.arange(-128, 128).astype(np.int8)

    assert look_ups(codes, None) == []
    (by_channel,) = look_ups(codes.reshape(4, 64), 0)
    assert (by_channel.index_bits, by_channel.stride) == (6, 64)


@pytest.mark.parametrize(
    ("position", "value", "text"),
    [
        (0, 1, r"type and version must be 0 and 1. Received: \(1, 1\)"),
        (4, 9, r"Received: \(0, 9\)"),
        (5, 0, "index must have 1 to 7 bits. Received: 0"),
        (5, 7 << 4 | 2, "axis must be one of shape"),
        (6, 1, "must hold all indices"),
    ],
    ids=["huffman", "version", "bits", "axis", "stride"],
)
def test_damaged_tables_are_refused(position, value, text):
    codes = np.array([[0, 1, 2], [3, 0, 1]], np.int8)
    encoded, ancillary = _encode(codes, 0, 2)
    ancillary[position] = value

    with pytest.raises(ValueError, match=text):
        decode_lut(encoded, ancillary, shape=codes.shape)


def test_indices_of_another_size_are_refused():
    codes = np.array([[0, 1, 2], [3, 0, 1]], np.int8)
    encoded, ancillary = _encode(codes, 0, 2)

    with pytest.raises(ValueError, match=r"take 2 bytes\. Received: 1"):
        decode_lut(encoded[:1], ancillary, shape=codes.shape)
    with pytest.raises(ValueError, match=r"have 16 bytes\. Received: 3"):
        decode_lut(encoded, ancillary[:3], shape=codes.shape)
    with pytest.raises(ValueError, match="must take 0 bytes"):
        decode_lut(encoded, ancillary, shape=(0, 3))
