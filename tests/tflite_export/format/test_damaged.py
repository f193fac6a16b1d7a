"""Hostile and damaged files end in an error, never in a crash or a hang."""

import contextlib
import resource
import struct
import time

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from support.plain import read_samples

from tflite_export import check, inspect
from tflite_export.format.builder import packed_model
from tflite_export.format.decoding import decoded_constants
from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.offsets import MAX_TABLES
from tflite_export.format.sparse import encode_sparse
from tflite_export.runtime import interpreter
from tflite_export.targets.edgetpu import EdgeTpu
from tflite_export.targets.litert_sparse.target import LiteRtSparse
from tflite_export.targets.litert_storage import store_weights
from tflite_export.targets.tflm.storage import store_packed
from tflite_export.verification.verify import compare
from tflite_export.weights.metadata import METADATA_NAME
from tflite_export.weights.sites import weight_sites

# Of CPU time, which a sound file of this size needs 2 ms of.
TIME_LIMIT_S = 2.0
SEED = 20260101


@pytest.fixture(scope="module")
def data(dense_only):
    """A small file with an int4 and a sparse tensor, 3 kB."""
    file = Flatbuffer(dense_only.result.path.read_bytes())
    site = weight_sites(file)[0]
    store_weights(file, "int4")
    densify(file, 0, site.tensor.index, encode_sparse(site.slot.codes))
    return file.to_bytes()


@pytest.fixture(scope="module")
def wide_data(grid, export_grid_model, tmp_path_factory):
    """A small file of one Dense with ternary weights, 5 kB."""
    rng = np.random.default_rng(0)
    layer = keras.layers.Dense(64, name="dense")
    model = keras.Sequential([keras.Input((64,)), layer])
    codes = rng.integers(-1, 2, (64, 64)).astype(np.int8)
    trained = grid(model, rng, codes={layer.kernel.path: codes})
    folder = tmp_path_factory.mktemp("wide")
    return export_grid_model(model, trained, folder).result.path.read_bytes()


def _packed(data, storage):
    """The file as microcontrollers read it, 3 kB."""
    file = Flatbuffer(data)
    store_packed(file, storage)
    return file.to_bytes()


@pytest.fixture(scope="module")
def lut_data(wide_data):
    return _packed(wide_data, "lut")


@pytest.fixture(scope="module")
def huffman_data(wide_data):
    return _packed(wide_data, "huffman")


def _read(path, data):
    """What inspect and the static checks do with the bytes of a file."""
    path.write_bytes(data)
    str(inspect(path))
    decoded_constants(Flatbuffer(data)).dense(data)
    EdgeTpu().check(data)
    LiteRtSparse().check(data)
    weight_sites(Flatbuffer(data))


def _mutated(rng, data):
    """Flips bits, writes large numbers, cuts, or moves pieces."""
    damaged = bytearray(data)
    kind = rng.integers(5)
    place = int(rng.integers(len(data) - 8))
    if kind == 0:
        return bytes(damaged[:place])
    if kind == 1:
        for position in rng.integers(len(data), size=rng.integers(1, 9)):
            damaged[position] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        value = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1, 2**30, len(data)]))
        struct.pack_into("<I", damaged, place & ~3, value)
    elif kind == 3:
        piece = damaged[place : place + 64]
        target = int(rng.integers(len(data) - 64))
        damaged[target : target + len(piece)] = piece
    else:
        damaged[place : place + 8] = rng.bytes(8)
    return bytes(damaged)


@pytest.mark.parametrize(
    ("fixture", "num_mutations"),
    [
        ("data", 10_000),
        ("lut_data", 1_000),
        ("huffman_data", 1_000),
        pytest.param("huffman_data", 10_000, marks=pytest.mark.slow),
    ],
)
def test_mutated_files_are_read_or_refused(
    request, tmp_path, no_larger_than, fixture, num_mutations
):
    data = request.getfixturevalue(fixture)
    rng = np.random.default_rng(SEED)
    path = tmp_path / "model.tflite"
    num_refused = 0
    texts = set()

    with no_larger_than(2**30):
        for _ in range(num_mutations):
            start = time.process_time()
            try:
                _read(path, _mutated(rng, data))
            except ValueError as error:
                texts.add(str(error))
                num_refused += 1
            assert time.process_time() - start < TIME_LIMIT_S

    # Some changes touch only weights or names; most break the file.
    assert [text for text in texts if "Received: " not in text] == []
    assert 0.2 * num_mutations < num_refused < num_mutations


@pytest.fixture
def no_larger_than():
    """Fails the test where Python asks for more memory than the limit."""

    @contextlib.contextmanager
    def limit(num_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm") as statm:
            used = int(statm.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + num_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    return limit


def test_every_truncation_is_refused(data, tmp_path):
    path = tmp_path / "model.tflite"

    for size in range(0, len(data) - 16, 37):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="Received: "):
            inspect(path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda model, graph: setattr(model, "version", 2),
            "version 2 of the format",
        ),
        (
            lambda model, graph: graph.operators.reverse(),
            "before it is computed",
        ),
        (
            lambda model, graph: graph.operators.append(graph.operators[0]),
            "or computed already",
        ),
        (
            lambda model, graph: setattr(
                graph.operators[0], "outputs", graph.inputs
            ),
            "an input, a constant",
        ),
        (
            lambda model, graph: setattr(
                graph.operators[0], "outputs", graph.operators[0].inputs[1:2]
            ),
            "an input, a constant",
        ),
    ],
    ids=["version", "order", "twice", "input", "constant"],
)
def test_what_the_verifier_of_litert_refuses_is_refused(
    dense_only, change, text
):
    data = dense_only.result.path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model, model.subgraphs[0])

    with pytest.raises(ValueError, match=text):
        Flatbuffer(packed_model(model))


def test_tables_that_unfold_into_gigabytes_are_refused(tmp_path):
    # 40,000 offsets to one subgraph, which has 40,000 offsets to one tensor:
    # 320 kB that would become 1.6e9 tensors.
    count = 40_000
    vector = struct.pack("<I", count)
    model_table, subgraphs = 32, 64
    subgraph_table = subgraphs + 4 + 4 * count + 32
    tensors = subgraph_table + 32
    tensor_table = tensors + 4 + 4 * count + 16
    data = bytearray(tensor_table + 32)
    struct.pack_into("<I4s", data, 0, model_table, b"TFL3")
    for table, field in ((model_table, 2), (subgraph_table, 0)):
        size = 4 + 2 * (field + 1)
        struct.pack_into("<HH", data, table - size, size, 8)
        struct.pack_into("<H", data, table - 2, 4)
        target = subgraphs if table == model_table else tensors
        struct.pack_into("<iI", data, table, size, target - table - 4)
    struct.pack_into("<HH", data, tensor_table - 4, 4, 4)
    struct.pack_into("<i", data, tensor_table, 4)
    for start, item in ((subgraphs, subgraph_table), (tensors, tensor_table)):
        data[start : start + 4] = vector
        places = start + 4 + 4 * np.arange(count)
        offsets = (item - places).astype("<u4").tobytes()
        data[start + 4 : start + 4 + 4 * count] = offsets
    path = tmp_path / "bomb.tflite"
    path.write_bytes(bytes(data))

    with pytest.raises(ValueError, match=rf"more than {MAX_TABLES:,} tables"):
        inspect(path)


@pytest.mark.parametrize("kernels", ["default", "reference"])
def test_crash_of_the_runtime_is_an_error_here(dense_only, kernels):
    # Segments that the loader does not check: it reads outside of the arrays.
    file = Flatbuffer(dense_only.result.path.read_bytes())
    site = weight_sites(file)[0]
    sparse = encode_sparse(site.slot.codes)
    densify(file, 0, site.tensor.index, sparse)
    segments = sparse.levels[1].segments
    wild = (segments.astype(int) + 200).clip(0, 255).astype(np.uint8)
    data = file.to_bytes().replace(segments.tobytes(), wild.tobytes())
    inputs = {file.interface()[0][0]: np.zeros((1, 6), np.int8)}

    with pytest.raises(ValueError, match="segments"):
        weight_sites(Flatbuffer(data))
    # Silent garbage or an error are both possible; a crash here is not.
    with contextlib.suppress(ValueError):
        interpreter.run(data, inputs, reference_kernels=kernels == "reference")


def test_huge_claimed_input_is_refused_before_it_is_filled(
    dense_only, tmp_path
):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    (index,) = file.interface()[0]
    shape = np.array([2, 1, 6], "<i4").tobytes()
    huge = np.array([2, 2**30, 2**30], "<i4").tobytes()
    path = tmp_path / "huge.tflite"
    path.write_bytes(file.to_bytes().replace(shape, huge))

    assert Flatbuffer(path.read_bytes()).tensor(0, index).shape[0] == 2**30
    with pytest.raises(ValueError, match="An input must be an array of at"):
        check(path)


@pytest.mark.parametrize(
    "record", [b"{", b"[]", b'{"weights": [{}]}', b"[" * 100_000]
)
def test_damaged_record_ends_verify_with_an_error(dense_only, record):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    file.set_metadata(METADATA_NAME, record)

    with pytest.raises(ValueError, match="Expected the exporter's record"):
        compare(
            file.to_bytes(),
            read_samples(
                dense_only.model, dense_only.trained, dense_only.samples
            ),
        )


def test_time_limit_ends_a_file_that_runs_too_long(dense_only):
    data = dense_only.result.path.read_bytes()
    (index,) = Flatbuffer(data).interface()[0]

    with pytest.raises(ValueError, match=r"no result in 0\.01 s"):
        interpreter.run(
            data, {index: np.zeros((1, 6), np.int8)}, time_limit_s=0.01
        )
