"""int4 and int2 codes survive packing; the bytes are those of TFLite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tflite_export.format.packing import pack, unpack

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)


@given(st.data(), st.sampled_from([2, 4]), SHAPES)
def test_unpack_is_the_inverse_of_pack(data, bit_width, shape):
    limit = 2 ** (bit_width - 1)
    codes = data.draw(
        hnp.arrays(np.int8, shape, elements=st.integers(-limit, limit - 1))
    )

    packed = pack(codes, bit_width=bit_width)

    assert packed.size == -(-codes.size * bit_width // 8)
    unpacked = unpack(packed, bit_width=bit_width, shape=shape)
    assert np.array_equal(unpacked, codes)
    assert unpacked.dtype == np.int8


@given(hnp.arrays(np.uint8, 8), st.sampled_from([2, 4]))
def test_pack_is_the_inverse_of_unpack(data, bit_width):
    codes = unpack(data, bit_width=bit_width, shape=(64 // bit_width,))

    assert np.array_equal(pack(codes, bit_width=bit_width), data)


def test_int4_bytes_are_those_of_tflite():
    # Low nibble first: 0x1 and 0xF, 0x8 and 0x7, 0x3 and padding.
    codes = np.array([1, -1, -8, 7, 3], np.int8)

    assert pack(codes, bit_width=4).tolist() == [0xF1, 0x78, 0x03]


def test_int2_bytes_are_those_of_tflite():
    # 0b01, 0b11, 0b00, 0b10 from the low end, then 0b01 and padding.
    codes = np.array([1, -1, 0, -2, 1], np.int8)

    assert pack(codes, bit_width=2).tolist() == [0b10001101, 0b00000001]


@pytest.mark.parametrize(("bit_width", "code"), [(4, 8), (4, -9), (2, 2)])
def test_code_that_does_not_fit_is_refused(bit_width, code):
    with pytest.raises(ValueError, match=r"must be in \[-\d, \d\]"):
        pack(np.array([0, code]), bit_width=bit_width)


def test_other_bit_widths_are_refused():
    with pytest.raises(ValueError, match="bit_width=3"):
        pack(np.zeros(4, np.int8), bit_width=3)


def test_missing_bytes_are_refused():
    with pytest.raises(ValueError, match="Received: 1 bytes"):
        unpack(np.zeros(1, np.uint8), bit_width=4, shape=(3,))
