"""Files of other makers are read as LiteRT reads them, and tried as it runs.

427 public files cannot be committed: `support.foreign` writes small ones with
the same features.
"""

import math

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from support.foreign import FILES

from tflite_export import check, inspect

# Where one of these fails in LiteRT, the file is not tried here.
UNTRIED = ("open_size", "strings")
# A delegate would keep no tensors.
KERNELS = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
every_file = pytest.mark.parametrize("name", FILES)


@pytest.fixture
def path(tmp_path, name):
    # Nobody promises the suffix.
    path = tmp_path / "model.BIN"
    path.write_bytes(FILES[name]())
    return path


def _runs(data):
    """Whether LiteRT itself runs a file, on zeros."""
    try:
        interpreter = Interpreter(model_content=data)
        interpreter.allocate_tensors()
        for held in interpreter.get_input_details():
            if held["dtype"] is not np.bytes_:
                zeros = np.zeros(held["shape"], held["dtype"])
                interpreter.set_tensor(held["index"], zeros)
        interpreter.invoke()
    except (ValueError, RuntimeError):
        return False
    return True


@every_file
def test_check_agrees_with_whether_litert_runs_it(name, path):
    report = check(path)

    if name in UNTRIED:
        assert report.is_ok
        assert any(
            "tried" in f.text or "not run" in f.text for f in report.findings
        )
    else:
        assert report.is_ok == _runs(path.read_bytes()), str(report)


def _stored(data):
    """Name, type, shape and bytes of each constant, by the accessors."""
    names = {v: k.lower() for k, v in vars(schema.TensorType).items()}
    model = schema.Model.GetRootAs(data)
    rows = []
    for position in range(model.SubgraphsLength()):
        graph = model.Subgraphs(position)
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            buffer = model.Buffers(tensor.Buffer())
            size = buffer.DataLength() or buffer.Size()
            if size:
                size += _index_bytes(tensor.Sparsity())
                name = (tensor.Name() or b"").decode()
                shape = tuple(map(int, tensor.ShapeAsNumpy()))
                if tensor.ShapeIsNone():
                    shape = ()
                rows.append((name, names[tensor.Type()], shape, size))
    return sorted(rows)


def _index_bytes(sparsity):
    """Bytes of the segments and indices of a sparse tensor; all are uint8."""
    size = 0
    for axis in range(0 if sparsity is None else sparsity.DimMetadataLength()):
        level = sparsity.DimMetadata(axis)
        for kind, held in (
            (level.ArraySegmentsType(), level.ArraySegments()),
            (level.ArrayIndicesType(), level.ArrayIndices()),
        ):
            if kind:
                assert kind == schema.SparseIndexVector.Uint8Vector
                vector = schema.Uint8Vector()
                vector.Init(held.Bytes, held.Pos)
                size += vector.ValuesLength()
    return size


@every_file
def test_constants_are_those_of_the_accessors(name, path):
    rows = inspect(path).tensors

    assert sorted(
        (row.name, row.dtype, row.shape, row.size_bytes) for row in rows
    ) == _stored(path.read_bytes())


def _litert_values(data):
    """The codes and zero points of each tensor as LiteRT gives them, by name.

    A sparse constant has the codes that its DENSIFY makes of it.
    """
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=KERNELS,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    for held in interpreter.get_input_details():
        zeros = np.zeros(held["shape"], held["dtype"])
        interpreter.set_tensor(held["index"], zeros)
    interpreter.invoke()
    values = {}
    model = schema.Model.GetRootAs(data)
    for subgraph in range(model.SubgraphsLength()):
        for held in interpreter.get_tensor_details(subgraph):
            scales = held["quantization_parameters"]
            try:
                codes = interpreter.get_tensor(held["index"], subgraph)
            except ValueError:  # An input of a subgraph that did not run.
                continue
            values.setdefault(held["name"], []).append((codes, scales))
    if "stored" in values:
        # LiteRT makes sparse constants dense when it loads them.
        ((codes, _),) = values["Densify_output"]
        ((_, scales),) = values["stored"]
        values["stored"] = [(codes, scales)]
    return values


# LiteRT's Python gives no values of these types.
WITHOUT_VALUES = ("bfloat16", "string", "float8_e4m3fn")


@every_file
def test_zeros_and_values_are_those_of_litert(name, path):
    data = path.read_bytes()
    if not _runs(data) or name in UNTRIED:
        pytest.skip("LiteRT gives no values of a file that it does not run.")

    held = _litert_values(data)
    for row in inspect(path).tensors:
        if row.dtype in WITHOUT_VALUES:
            continue
        found = [
            (_num_zeros(codes, scales), len(np.unique(codes)))
            for codes, scales in held[row.name]
        ]
        assert (row.num_zeros, row.num_distinct) in found, row
        assert row.num_zeros <= math.prod(row.shape)


def _num_zeros(codes, scales):
    points = scales["zero_points"]
    if codes.dtype.kind not in "iu" or not points.size:
        return int((codes == 0).sum())
    shape = [1] * codes.ndim
    if points.size > 1:
        shape[scales["quantized_dimension"]] = -1
    return int((codes == points.reshape(shape)).sum())
