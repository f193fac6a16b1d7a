"""Equal parts are written once, closely, and read back as they were."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.foreign import FILES, File, scales

from tflite_export.format.accounting import ByteAccount
from tflite_export.format.builder import BUFFER_ALIGNMENT, packed_model
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.kinds import FILE_IDENTIFIER
from tflite_export.runtime import interpreter


def _values(held):
    """An object of the schema as plain values."""
    if isinstance(held, np.ndarray):
        return held.tolist()
    if isinstance(held, list):
        return [_values(item) for item in held]
    if hasattr(held, "__dict__"):
        return {name: _values(value) for name, value in vars(held).items()}
    return held.encode() if isinstance(held, str) else held


def _read(data):
    return schema.ModelT.InitFromPackedBuf(data, 0)


def _plain(model):
    """The file of the builder of flatbuffers."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


# The constants of a file over 2 GB lie outside of what the schema describes.
@pytest.mark.parametrize(
    "name", sorted(FILES.keys() - {"constants_behind_the_tables"})
)
def test_what_is_written_is_read_back(name):
    model = _read(FILES[name]())

    packed = packed_model(model)

    assert _values(_read(packed)) == _values(model)
    assert packed_model(_read(packed)) == packed
    assert not {"other"} & ByteAccount(packed).by_kind.keys()


def test_shared_parts_make_a_file_smaller_and_change_no_output(zoo):
    model = _read(zoo.result.path.read_bytes())
    packed, plain = packed_model(model), _plain(model)
    file = Flatbuffer(packed)
    (image,) = file.inputs().values()
    rng = np.random.default_rng(0)
    shape = (4, *image.shape[1:])
    inputs = {image.index: rng.integers(-128, 128, shape).astype(np.int8)}

    assert len(packed) < 0.85 * len(plain)
    for reference in (False, True):
        (first,), (second,) = (
            interpreter.run(data, inputs, reference_kernels=reference).values()
            for data in (packed, plain)
        )
        assert np.array_equal(first, second)


def test_equal_tables_are_one():
    def size(strides):
        file = File()
        graph = file.graph()
        x = graph.tensor("x")
        for stride in strides:
            options = {"strideW": stride, "strideH": 1}
            graph.operator("CONV_2D", [x, x], [x], "Conv2D", **options)
        return len(packed_model(file.model))

    equal, different = size([1] * 8), size(range(1, 9))

    # Seven tables of a vtable's offset and two numbers.
    assert different - equal >= 7 * 12


@pytest.mark.parametrize("sizes", [[16] * 40, [5, 16, 100, 7] * 10, [64]])
def test_buffers_are_aligned_and_gaps_are_filled(sizes):
    file = File()
    graph = file.graph()
    rng = np.random.default_rng(0)
    for number, size in enumerate(sizes):
        values = rng.integers(1, 100, size).astype(np.int8)
        held = scales([0.5 + number], [0])
        graph.constant(f"w{number}", values, quantization=held)
    graph.ends([], [0])

    data = packed_model(file.model)

    starts = [data.find(t.data.tobytes()) for t in Flatbuffer(data).tensors()]
    assert {start % BUFFER_ALIGNMENT for start in starts} == {0}
    # Up to 3 bytes behind each name and buffer, and little more.
    alignment = ByteAccount(data).by_kind.get("alignment", 0)
    assert alignment <= 6 * len(sizes) + BUFFER_ALIGNMENT
