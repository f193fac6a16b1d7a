"""Each byte of a file has one kind and one layer."""

import itertools

import numpy as np
import pytest
from support.foreign import FILES, File, scales

from tflite_export.format.accounting import KINDS, ByteAccount
from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.sparse import encode_sparse
from tflite_export.weights.sites import weight_sites


def _require_cover(data):
    account = ByteAccount(data)
    pieces = account.pieces
    assert pieces[0].start == 0
    assert pieces[-1].end == len(data)
    assert all(
        before.end == after.start
        for before, after in itertools.pairwise(pieces)
    )
    assert all(piece.size_bytes > 0 for piece in pieces)
    assert {piece.kind for piece in pieces} <= set(KINDS)
    assert sum(account.by_kind.values()) == len(data)
    sums = [sum(kinds.values()) for kinds in account.by_layer.values()]
    assert sum(sums) == len(data)
    assert sums == sorted(sums, reverse=True)
    return account


@pytest.mark.parametrize("name", FILES)
def test_every_byte_of_a_foreign_file_is_counted_once(name):
    _require_cover(FILES[name]())


@pytest.fixture
def sparse(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    site = weight_sites(file)[0]
    densify(file, 0, site.tensor.index, encode_sparse(site.slot.codes))
    return file.to_bytes()


def test_every_byte_of_an_export_is_counted_once(zoo, sparse):
    for data in (zoo.result.path.read_bytes(), sparse):
        kinds = _require_cover(data).by_kind
        # Nothing is unknown in what we write.
        assert not {"other", "compiled"} & kinds.keys()


def test_kinds_have_the_bytes_of_their_arrays(sparse, dense_only):
    file = Flatbuffer(sparse)
    kinds = ByteAccount(sparse).by_kind

    _, dense_kernel = weight_sites(file)
    arrays = dense_kernel.tensor.data.nbytes
    stored = next(t.sparse for t in file.tensors() if t.sparse)
    # A vector has 4 bytes for its length; two tensors have values.
    assert kinds["weights"] == arrays + stored.values.nbytes + 2 * 4
    assert kinds["indices"] > stored.size_bytes - stored.values.nbytes
    biases = sum(s.bias[1].data.nbytes + 4 for s in weight_sites(file))
    assert kinds["biases"] == biases
    names = {tensor.name for tensor in file.tensors()}
    assert kinds["names"] >= sum(len(name) + 5 for name in names)


def test_layers_are_those_of_keras(zoo):
    layers = ByteAccount(zoo.result.path.read_bytes()).by_layer

    assert {"conv", "depthwise", "transpose", "dense"} <= layers.keys()
    assert layers["conv"]["weights"] >= 3 * 3 * 3 * 8
    assert layers["conv"]["biases"] >= 4 * 8
    assert "" in layers


def test_a_sparse_kernel_belongs_to_the_layer_behind_its_densify(sparse):
    layers = ByteAccount(sparse).by_layer

    assert layers["hidden"]["indices"] > 0
    assert layers["hidden"]["weights"] > 0


def test_vectors_that_tensors_share_count_once():
    def data(shared):
        file = File()
        graph = file.graph()
        codes = np.arange(32, dtype=np.int8).reshape(4, 8)
        w = graph.constant("w", codes, quantization=scales([1.0], [0]))
        buffer = graph.held.tensors[w].buffer
        more = {"buffer": buffer} if shared else {}
        if shared:
            graph.tensor("v", "int8", (4, 8), **more)
        else:
            graph.constant("v", codes)
        graph.ends([], [w])
        return file.to_bytes()

    once, twice = (
        ByteAccount(data(shared)).by_kind for shared in (True, False)
    )
    assert once["weights"] == 4 + 32
    assert twice["weights"] == 2 * (4 + 32)


def test_streams_are_weights_and_their_tables_are_tables():
    file = File()
    graph = file.graph()
    x = graph.tensor("x", "int8", (1, 8))
    stream = graph.constant("layer/kernel", np.ones(100, np.uint8))
    tables = graph.constant("t", np.full(36, 2, np.uint8))
    w = graph.tensor("w", "int8", (4, 8))
    y = graph.tensor("y", "int8", (1, 4))
    graph.operator("TFLM_DECODE", [stream, tables], [w])
    graph.operator("FULLY_CONNECTED", [x, w, -1], [y], "FullyConnected")
    graph.ends([x], [y])
    data = file.to_bytes()

    kinds = ByteAccount(data).by_kind

    assert kinds["weights"] == 4 + 100
    assert kinds["tables"] == 4 + 36


def test_what_is_behind_the_tables_is_other():
    data = FILES["appended_zip"]()

    assert ByteAccount(data).by_kind["other"] >= len(b"cat\ndog\n")
