"""Sparse tensors are exact, as small as their types allow, and checked."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tflite_export.format.sparse import (
    DenseLevel,
    SparseLevel,
    SparseTensor,
    decode_sparse,
    encode_sparse,
    smallest_encoding,
    validate_sparse,
)

CODES = hnp.arrays(
    np.int8,
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
    # Mostly zeros, as the tensors this is made for.
    elements=st.one_of(st.just(0), st.integers(-127, 127)),
)
MATRIX = np.array(
    [[0, 0, 5, 0], [0, 0, 0, 0], [1, -3, 0, 0], [0, 0, 0, 2]], np.int8
)
# Blocks of 1x4, one a row; the second row has none.
BLOCKS = SparseTensor(
    shape=(4, 4),
    values=MATRIX[[0, 2, 3]].ravel(),
    traversal_order=(0, 1, 2),
    block_map=(1,),
    levels=(
        DenseLevel(4),
        SparseLevel(np.array([0, 1, 1, 2, 3]), np.array([0, 0, 0])),
        DenseLevel(4),
    ),
)


@given(CODES, st.data())
def test_decode_is_the_inverse_of_encode_for_every_axis(codes, data):
    axis = data.draw(st.integers(-codes.ndim, codes.ndim - 1))

    sparse = encode_sparse(codes, axis=axis)

    assert np.array_equal(decode_sparse(sparse), codes)
    assert decode_sparse(sparse).dtype == codes.dtype
    assert sparse.values.size == np.count_nonzero(codes)


@given(CODES)
def test_smallest_encoding_is_exact_and_no_larger_than_the_last_axis(codes):
    sparse = smallest_encoding(codes)

    assert np.array_equal(decode_sparse(sparse), codes)
    assert sparse.size_bytes <= encode_sparse(codes).size_bytes


def test_csr_arrays_of_a_matrix_worked_by_hand():
    sparse = encode_sparse(MATRIX)

    assert sparse.traversal_order == (0, 1)
    assert sparse.block_map == ()
    assert sparse.levels[0] == DenseLevel(4)
    assert sparse.levels[1].segments.tobytes() == bytes([0, 1, 1, 3, 4])
    assert sparse.levels[1].indices.tobytes() == bytes([2, 0, 1, 3])
    assert sparse.values.tobytes() == bytes([5, 1, 256 - 3, 2])
    assert sparse.size_bytes == 5 + 4 + 4
    assert sparse.layout == "csr"


def test_blocks_of_foreign_files_are_read():
    assert np.array_equal(decode_sparse(BLOCKS), MATRIX)
    assert BLOCKS.layout == "1x4"


def test_columns_are_stored_when_the_first_axis_is_sparse():
    sparse = encode_sparse(MATRIX, axis=0)

    assert sparse.traversal_order == (1, 0)
    assert sparse.levels[1].segments.tolist() == [0, 1, 2, 3, 4]
    assert sparse.levels[1].indices.tolist() == [2, 2, 0, 3]


@pytest.mark.parametrize(
    ("size", "segments", "indices"),
    [
        (255, np.uint8, np.uint8),
        (256, np.uint16, np.uint8),
        (257, np.uint16, np.uint16),
        (65_536, np.int32, np.uint16),
        (65_537, np.int32, np.int32),
    ],
)
def test_index_types_are_the_narrowest_that_fit(size, segments, indices):
    level = encode_sparse(np.ones((1, size), np.int8)).levels[1]

    assert level.segments.dtype == segments
    assert level.indices.dtype == indices


def test_two_block_axes_of_foreign_files_are_read():
    # 2x2 blocks, stored column by column of blocks; only the last is there.
    sparse = dataclasses.replace(
        encode_sparse(MATRIX),
        values=np.array([1, 2, 3, 4], np.int8),
        traversal_order=(1, 0, 3, 2),
        block_map=(0, 1),
        levels=(
            DenseLevel(2),
            SparseLevel(np.array([0, 0, 1]), np.array([1])),
            DenseLevel(2),
            DenseLevel(2),
        ),
    )

    expected = np.zeros((4, 4), np.int8)
    expected[2:, 2:] = [[1, 3], [2, 4]]
    assert np.array_equal(decode_sparse(sparse), expected)


def _with_level(**changes):
    sparse = encode_sparse(MATRIX)
    level = dataclasses.replace(sparse.levels[1], **changes)
    return dataclasses.replace(sparse, levels=(sparse.levels[0], level))


@pytest.mark.parametrize(
    ("broken", "text"),
    [
        (_with_level(segments=np.array([0, 1, 1, 3])), "segments of axis 1"),
        (_with_level(segments=np.array([0, 1, 0, 3, 4])), "not decrease"),
        (_with_level(segments=np.array([-1, 1, 1, 3, 4])), "start at 0"),
        (_with_level(segments=np.array([0, 1, 1, 3, 9])), "ends at, 9"),
        (_with_level(indices=np.array([2, 0, 4, 3])), r"in \[0, 4\)"),
        (_with_level(indices=np.array([-2, 0, 1, 3])), r"in \[0, 4\)"),
        (_with_level(indices=np.array([2, 1, 1, 3])), "must increase"),
        (
            dataclasses.replace(encode_sparse(MATRIX), traversal_order=(0, 0)),
            "all axes",
        ),
        (
            dataclasses.replace(encode_sparse(MATRIX), traversal_order=(0,)),
            "name each axis",
        ),
        (
            dataclasses.replace(encode_sparse(MATRIX), levels=(DenseLevel(4),)),
            "name each axis",
        ),
        (dataclasses.replace(encode_sparse(MATRIX), shape=(5, 4)), "size, 5"),
        (
            dataclasses.replace(encode_sparse(MATRIX), block_map=(0,)),
            "block map",
        ),
        (
            dataclasses.replace(BLOCKS, block_map=(7,)),
            "block map",
        ),
        (
            dataclasses.replace(BLOCKS, shape=(4, 6)),
            "must divide",
        ),
        (dataclasses.replace(encode_sparse(MATRIX), shape=()), "shape"),
    ],
)
def test_contradicting_arrays_are_refused(broken, text):
    with pytest.raises(ValueError, match=text):
        validate_sparse(broken)
    with pytest.raises(ValueError, match="Received: "):
        decode_sparse(broken)
