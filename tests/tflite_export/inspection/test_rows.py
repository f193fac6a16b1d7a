"""The numbers of `inspect` mean what they say, for files of any maker."""

import numpy as np
import pytest
from support.foreign import FILES, File, scales

from tflite_export import inspect
from tflite_export.format.sparse import encode_sparse
from tflite_export.format.tensors import packed_sparsity
from tflite_export.inspection import tensor_rows
from tflite_export.measuring.sizes import measure_sizes


@pytest.mark.parametrize(
    ("name", "tensor", "num_zeros"),
    [
        # Half of the codes are the zero point 7; none is 0.
        ("zero_point_of_uint8", "w", 16),
        # A stream that starts with nothing: -128 stands for 0.
        ("zero_point_of_a_constant", "state", 6),
        # [1, 1, 1, 0] with 1, [2, 2, 2, 0] with 2, [3, 0, 1, 1] with 3.
        ("zero_point_of_each_channel", "w", 7),
        # The places between are the code 0, which stands for -0.3.
        ("zero_point_of_a_sparse_tensor", "stored", 2),
    ],
)
def test_zeros_are_the_values_that_stand_for_0(name, tensor, num_zeros):
    rows = {row.name: row for row in tensor_rows(FILES[name]())}

    row = rows[tensor]
    assert row.num_zeros == num_zeros
    assert row.sparsity == num_zeros / np.prod(row.shape)


def test_zero_points_of_a_sparse_tensor_go_along_its_axis():
    # Row 0 has the zero point 0, row 1 the zero point 3.
    file = File()
    graph = file.graph()
    codes = np.array([[0, 3, 0, 5], [0, 3, 3, 0]], np.int8)
    sparse = encode_sparse(codes)
    graph.constant(
        "w",
        sparse.values,
        shape=codes.shape,
        sparsity=packed_sparsity(sparse),
        quantization=scales([1, 1], [0, 3], axis=0),
    )
    graph.ends([], [0])

    (row,) = tensor_rows(file.to_bytes())

    assert row.num_zeros == 4


def test_zero_points_that_fit_no_axis_count_if_they_are_one_number():
    # As TFLM's person_detect has them: a bias of rank 1 with the axis 3.
    file = File()
    graph = file.graph()
    held = scales([1.0, 2.0], [0, 0], axis=3)
    graph.constant("bias", np.array([0, 9], np.int32), quantization=held)
    graph.ends([], [0])

    (row,) = tensor_rows(file.to_bytes())

    assert row.num_zeros == 1


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("half_precision", "half"),
        ("sparse_floats", "stored"),
        ("sparse_halves", "stored"),
        ("zero_point_of_each_channel", "w"),
    ],
)
def test_operator_is_the_one_behind_those_that_unpack(name, tensor):
    rows = {row.name: row for row in tensor_rows(FILES[name]())}

    assert rows[tensor].operator == "FULLY_CONNECTED"


def test_types_without_numbers_do_not_make_the_entropy_bound_smaller():
    data = FILES["types_without_numpy"]()
    rows = {row.name: row for row in tensor_rows(data)}

    sizes = measure_sizes(data)

    # bfloat16 is read; float8 is not, and counts with its 16 bytes.
    assert rows["halves"].entropy_bits == rows["w"].entropy_bits == 5
    assert rows["eighths"].entropy_bits is None
    known = sum(row.entropy_bytes or 0 for row in rows.values())
    assert sizes.entropy_bytes == pytest.approx(known + 16, abs=0.05)
    assert rows["unsigned_nibbles"].num_distinct == 16


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("compiled_for_the_edge_tpu", "5,000 bytes are data of edgetpu-custom"),
        ("size_0_is_read", "it holds no constants"),
    ],
)
def test_an_empty_table_is_a_line_that_says_why(tmp_path, name, text):
    path = tmp_path / "model.tflite"
    path.write_bytes(FILES[name]())

    inspection = inspect(path)

    title, note, *_ = str(inspection).splitlines()
    assert title.endswith("weights: none")
    assert text in note
    assert inspection.to_dict()["tensors"] == []


def test_compressed_weights_have_bytes_and_no_zeros():
    # As Vela writes them: a stream, not values.
    file = File()
    graph = file.graph()
    stream = graph.constant("stream", np.zeros(64, np.uint8))
    x, y = graph.tensor("x", "int8"), graph.tensor("y", "int8")
    graph.operator("ethos-u", [stream, x], [y])
    graph.ends([x], [y])

    (row,) = tensor_rows(file.to_bytes())

    assert row.size_bytes == 64
    assert row.num_zeros is None
