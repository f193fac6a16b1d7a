"""Each storage computes what dense int8 does, in fewer bytes, or is refused."""

import dataclasses
import math
import re
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from tflite_export import check, inspect
from tflite_export.format.edits import densify
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.sparse import encode_sparse
from tflite_export.runtime import interpreter
from tflite_export.targets.litert_storage import (
    MAX_INT4_BIAS,
    choose,
    shared_with_others,
    store_weights,
)
from tflite_export.targets.target import find_target
from tflite_export.weights.sites import weight_sites


@pytest.fixture(scope="module")
def dense(sparse_convolutions, export_grid_model, tmp_path_factory):
    """The bytes of the file with dense int8 weights."""
    folder = tmp_path_factory.mktemp("dense")
    exported = export_grid_model(*sparse_convolutions, folder)
    return exported.result.path.read_bytes()


@pytest.fixture
def inputs(rng):
    return {0: rng.integers(-128, 128, (8, 8, 8, 3)).astype(np.int8)}


def _stored(dense, weight_storage):
    file = Flatbuffer(dense)
    notes = store_weights(file, weight_storage)
    return file.to_bytes(), notes


def _worst_step(dense, stored, inputs):
    file = Flatbuffer(dense)
    (index,) = file.interface()[0]
    inputs = {index: inputs[0]}
    expected = interpreter.run(dense, inputs)
    actual = interpreter.run(stored, inputs)
    return max(
        int(np.abs(actual[i].astype(int) - expected[i]).max()) for i in expected
    )


def _rows(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(data)
        return inspect(path).tensors


@pytest.mark.parametrize("weight_storage", ["auto", "sparse"])
def test_sparse_convolutions_compute_the_same_from_fewer_bytes(
    dense, inputs, weight_storage
):
    stored, notes = _stored(dense, weight_storage)

    assert _worst_step(dense, stored, inputs) == 0
    assert len(stored) < 0.75 * len(dense)
    assert any("sparse" in note for note in notes)


def test_int4_is_within_one_step_of_int8(dense, inputs):
    stored, _ = _stored(dense, "int4")

    # The built-in int4 kernel of convolutions rounds once more than XNNPACK.
    assert _worst_step(dense, stored, inputs) <= 1
    assert {
        row.dtype
        for row in _rows(stored)
        if row.operator in ("CONV_2D", "FULLY_CONNECTED")
        and row.sparsity
        and len(row.shape) > 1
    } == {"int4"}


def test_inspect_shows_the_layout_of_sparse_tensors(dense):
    stored, _ = _stored(dense, "sparse")

    rows = [row for row in _rows(stored) if row.layout == "csr"]
    # The operators that read them, not the DENSIFY in between.
    assert {r.operator for r in rows} == {"CONV_2D", "DEPTHWISE_CONV_2D"}
    assert all(0.7 < row.sparsity < 0.9 for row in rows)
    for row in rows:  # The bytes of the indices count.
        num_values = math.prod(row.shape) - row.num_zeros
        assert num_values < row.size_bytes < math.prod(row.shape)


def test_auto_packs_dense_layers_and_keeps_convolutions_without_zeros(dense):
    _, notes = _stored(dense, "auto")
    sites = weight_sites(Flatbuffer(dense))
    site = next(s for s in sites if s.operator.name == "DEPTHWISE_CONV_2D")
    codes = np.where(site.slot.codes == 0, 1, site.slot.codes).astype(np.int8)

    choice = choose(site._replace(slot=site.slot._replace(codes=codes)), "auto")

    assert any(re.search(r"\(10x32\): int4; saves 160", n) for n in notes)
    assert any(re.search(r"\(1x3x3x32\): sparse; 2", n) for n in notes)
    assert choice.storage == "int8"
    assert "four times" in choice.reason
    assert "sparse would need" in choice.reason


def test_codes_above_7_stay_int8_and_the_note_names_the_grid(dense):
    file = Flatbuffer(dense)
    site = next(
        s for s in weight_sites(file) if s.operator.name == "FULLY_CONNECTED"
    )
    codes = site.slot._replace(codes=site.slot.codes * 9)

    choice = choose(site._replace(slot=codes), "int4")

    assert choice.storage == "int8"
    assert "reach 63" in choice.reason
    assert "level_grid='uniform'" in choice.reason


def test_bias_that_overflows_in_int4_kernels_keeps_int8(dense):
    site = next(
        s
        for s in weight_sites(Flatbuffer(dense))
        if s.operator.name == "FULLY_CONNECTED"
    )
    bias_site, bias = site.bias
    data = bias.data.copy()
    data[0] = MAX_INT4_BIAS
    huge = dataclasses.replace(bias, data=data)

    choice = choose(site._replace(bias=(bias_site, huge)), "auto")

    assert choice.storage == "int8"
    assert "overflows" in choice.reason


def test_dense_layer_of_zero_channels_is_right_in_int4(
    grid, export_grid_model, tmp_path, rng
):
    # Channels of zeros once got a bias of 2**30, which int4 kernels overflow.
    model = keras.Sequential([keras.Input((8,)), layers.Dense(16, name="head")])
    codes = rng.integers(-7, 8, (8, 16)).astype(np.int8)
    codes[:, ::3] = 0
    trained = grid(model, rng, codes={"head/kernel": codes})
    # A name of its own for the model: paths start with it.
    trained = grid(model, rng, codes={path: codes for path in trained})

    result = export_grid_model(
        model, trained, tmp_path, weight_storage="int4"
    ).result

    # Half a step for the input, half for the output.
    assert result.verification.max_output_lsb <= 1.5


def test_forced_storage_that_fits_nothing_is_refused(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())

    with pytest.raises(ValueError, match="sparse FULLY_CONNECTED is slow"):
        store_weights(file, "sparse")


@pytest.mark.parametrize(
    ("weight_storage", "target", "text"),
    [
        ("int4", "ethos-u", "crashes on int4"),
        ("sparse", "ethos-u85-256", "misreads"),
        ("int4", "tflm", "no int4 kernels"),
        ("sparse", "tflm", "silently"),
        ("sparse", "edgetpu", "no sparse weights"),
        ("lut", "litert", "Only LiteRT for Microcontrollers"),
        ("lut", "litert-sparse", "Only LiteRT for Microcontrollers"),
        ("huffman", "edgetpu", "Microcontrollers reads Huffman codes"),
        ("int3", "litert", "must be one of"),
    ],
)
def test_combinations_known_to_be_wrong_are_refused_by_name(
    weight_storage, target, text
):
    with pytest.raises(ValueError, match=text) as error:
        find_target(target).require_storage(weight_storage)

    assert repr(weight_storage) in str(error.value)


@pytest.mark.parametrize("target", ["tflm", "edgetpu", "ethos-u"])
def test_sparse_and_packed_files_are_blocked_for_other_targets(
    dense, tmp_path, target
):
    path = tmp_path / "model.tflite"
    path.write_bytes(_stored(dense, "auto")[0])

    report = check(path, target=target)

    assert not report.is_ok
    assert "sparse tensor as a dense one" in str(report)
    # The microcontroller's kernels read packed weights of one scale.
    assert ("int4 weights" in str(report)) == (target != "tflm")


def test_direct_sparse_weight_of_a_convolution_is_blocked_for_litert(
    dense, tmp_path
):
    file = Flatbuffer(dense)
    site = next(s for s in weight_sites(file) if s.operator.name == "CONV_2D")
    densify(file, 0, site.tensor.index, encode_sparse(site.slot.codes))
    stored = file.operators[0].inputs[0]
    # As broken converters write it: the convolution reads the sparse tensor.
    reader = site.site._replace(operator=site.site.operator + 1)
    file.set_input(reader, stored)
    path = tmp_path / "model.tflite"
    path.write_bytes(file.to_bytes())

    report = check(path)

    assert not report.is_ok
    assert "reads a sparse tensor as a dense one" in str(report)


def test_equal_indices_in_two_subgraphs_are_two_tensors(dense):
    sites = weight_sites(Flatbuffer(dense))
    fully, conv = (
        next(s for s in sites if s.operator.name == name)
        for name in ("FULLY_CONNECTED", "CONV_2D")
    )
    tensor = dataclasses.replace(conv.tensor, index=fully.tensor.index)
    other = conv._replace(tensor=tensor)
    body = other._replace(site=other.site._replace(subgraph=1))

    assert shared_with_others([fully, body]) == {}
    reasons = shared_with_others([fully, other])
    assert reasons == {fully.key: "also read by CONV_2D"}


@pytest.mark.parametrize("weight_storage", ["sparse", "int4", "int8"])
def test_check_says_which_weights_are_for_the_cpu_alone(
    dense, weight_storage, tmp_path
):
    stored, _ = _stored(dense, weight_storage)
    path = tmp_path / "model.tflite"
    path.write_bytes(stored)
    report = check(path)
    subjects = {f.subject.split()[-1] for f in report.findings}
    kind = {"sparse": "DENSIFY", "int4": "int4"}.get(weight_storage)

    assert report.is_ok
    assert subjects & {"DENSIFY", "int4"} == ({kind} if kind else set())


def test_files_for_a_gpu_have_int8_weights_alone(export_for):
    for_cpu = export_for("litert", weight_storage="auto")
    for_gpu = export_for("litert,accelerator=gpu", weight_storage="auto")

    dense = export_for("litert", weight_storage="int8")
    assert for_gpu.size_bytes == dense.size_bytes > for_cpu.size_bytes
    assert any("an app gets no model" in note for note in for_cpu.notes)
    assert not any("an app gets no model" in note for note in for_gpu.notes)
    with pytest.raises(ValueError, match="Only the CPU reads it, not a GPU"):
        find_target("litert,accelerator=gpu").require_storage("sparse")
