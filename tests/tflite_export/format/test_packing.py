"""int4 and int2 codes survive packing; the bytes are those of TFLite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tflite_export.format.packing import pack, unpack

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)


@given(st.data(), SHAPES)
def test_unpack_is_the_inverse_of_pack(data, shape):
    codes = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-8, 7)))

    packed = pack(codes)

    assert packed.size == -(-codes.size // 2)
    unpacked = unpack(packed, bit_width=4, shape=shape)
    assert np.array_equal(unpacked, codes)
    assert unpacked.dtype == np.int8


@given(hnp.arrays(np.uint8, 8))
def test_pack_is_the_inverse_of_unpack(data):
    codes = unpack(data, bit_width=4, shape=(16,))

    assert np.array_equal(pack(codes), data)


def test_int4_bytes_are_those_of_tflite():
    # Low nibble first: 0x1 and 0xF, 0x8 and 0x7, 0x3 and padding.
    codes = np.array([1, -1, -8, 7, 3], np.int8)

    assert pack(codes).tolist() == [0xF1, 0x78, 0x03]


def test_int2_bytes_are_those_of_tflite():
    # 0b01, 0b11, 0b00, 0b10 from the low end, then 0b01 and padding.
    data = np.array([0b10001101, 0b00000001], np.uint8)

    assert unpack(data, bit_width=2, shape=(5,)).tolist() == [1, -1, 0, -2, 1]


@pytest.mark.parametrize("code", [8, -9])
def test_code_that_does_not_fit_is_refused(code):
    with pytest.raises(ValueError, match=r"must be in \[-8, 7\]"):
        pack(np.array([0, code]))


def test_missing_bytes_are_refused():
    with pytest.raises(ValueError, match="Received: 1 bytes"):
        unpack(np.zeros(1, np.uint8), bit_width=4, shape=(3,))
