"""Each edit changes the form of a file, and not its outputs."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tflite_export.format import edits
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.names import shorten_names
from tflite_export.format.records import Constant
from tflite_export.format.sparse import decode_sparse, encode_sparse
from tflite_export.runtime import interpreter
from tflite_export.weights.integer_graph import requantize_output
from tflite_export.weights.sites import weight_sites


@pytest.fixture
def file(zoo):
    return Flatbuffer(zoo.result.path.read_bytes())


def _outputs(file):
    (index,) = file.interface()[0]
    rng = np.random.default_rng(0)
    samples = rng.integers(-128, 128, (4, 8, 8, 3)).astype(np.int8)
    outputs = interpreter.run(
        file.to_bytes(), {index: samples}, reference_kernels=True
    )
    return next(iter(outputs.values()))


def _first(file, name):
    return next(o for o in file.operators if o.name == name)


def test_densified_tensor_is_read_back_exactly(file):
    site = next(s for s in weight_sites(file) if s.operator.name == "CONV_2D")
    sparse = encode_sparse(site.slot.codes, axis=0)
    edits.densify(file, 0, site.tensor.index, sparse)

    again = Flatbuffer(file.to_bytes())

    stored = again.tensor(0, again.operators[0].inputs[0])
    assert np.array_equal(decode_sparse(stored.sparse), site.slot.codes)
    assert again.tensor(0, site.tensor.index).data is None
    assert np.array_equal(weight_sites(again)[0].slot.codes, site.slot.codes)


def test_padding_is_spelled_out_and_grows_the_input(file):
    operator = _first(file, "CONV_2D")
    shape = file.tensor(0, operator.inputs[0]).shape

    edits.insert_pad(file, operator, ((0, 0), (1, 1), (2, 0), (0, 0)))
    again = Flatbuffer(file.to_bytes())

    pad = again.operators[operator.index]
    assert pad.name == "PAD"
    assert again.operators[operator.index + 1].options["padding"] == "VALID"
    padded = again.tensor(0, again.operators[operator.index + 1].inputs[0])
    assert padded.shape == (shape[0], shape[1] + 2, shape[2] + 2, shape[3])


def test_requantized_output_is_restored_for_its_readers(file):
    operator = _first(file, "CONV_2D")

    requantize_output(file, operator, np.array([0.5], np.float32))
    again = Flatbuffer(file.to_bytes())

    changed, restoring = again.operators[operator.index :][:2]
    assert again.tensor(0, changed.outputs[0]).scales == [0.5]
    assert restoring.name == "QUANTIZE"
    assert restoring.inputs == changed.outputs
    assert restoring.outputs == operator.outputs


def test_dense_layer_as_convolution_computes_the_same(file):
    expected = _outputs(file)

    edits.replace_by_convolution(file, _first(file, "FULLY_CONNECTED"))

    names = [o.name for o in file.operators]
    assert names.count("RESHAPE") >= 2
    assert np.array_equal(_outputs(file), expected)


def test_only_weights_and_the_interface_keep_names_that_nothing_reads(file):
    inputs, outputs = file.interface()
    for index in file.operators[0].outputs:
        file.rename(0, index, "computed")

    shorten_names(file, keeps_all=False)
    names = {t.index: t.name for t in Flatbuffer(file.to_bytes()).tensors()}

    assert all(names[index] for index in (*inputs, *outputs))
    kernels = {site.tensor.index for site in weight_sites(file)}
    assert all(names[index].endswith("/kernel") for index in kernels)
    others = names.keys() - kernels - {*inputs, *outputs}
    assert {names[index] for index in others} == {""}


def test_scales_of_biases_go_where_only_such_operators_read_them(file):
    expected = _outputs(file)
    convolutions = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")

    edits.drop_bias_scales(file, convolutions)

    held: dict[str, set] = {}
    for site in weight_sites(file):
        if site.bias:
            has_scales = bool(site.bias[1].scales.size)
            held.setdefault(site.operator.name, set()).add(has_scales)
    assert {held[name] == {False} for name in convolutions} == {True}
    # Its kernel compares the scale of the bias with that of the sums.
    assert held["FULLY_CONNECTED"] == {True}
    assert np.array_equal(_outputs(file), expected)


def test_equal_scales_become_one_and_change_no_output(file):
    convolutions = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")
    for site in weight_sites(file):
        if site.operator.name in convolutions and site.tensor.scales.size > 1:
            equal = np.full_like(site.tensor.scales, 0.01)
            kept = Constant(site.slot.codes, equal, site.slot.axis)
            if site.tensor.name != "per_channel/kernel":
                file.replace_inputs({site.site: kept})
    edits.drop_bias_scales(file, convolutions)
    expected = _outputs(file)

    edits.join_equal_scales(file, convolutions)

    sizes: dict[str, set] = {}
    for site in weight_sites(file):
        sizes.setdefault(site.operator.name, set()).add(site.tensor.scales.size)
    assert sizes["DEPTHWISE_CONV_2D"] == sizes["TRANSPOSE_CONV"] == {1}
    # Different scales stay.
    assert sizes["CONV_2D"] == {1, 8}
    assert np.array_equal(_outputs(file), expected)


def test_what_nothing_uses_is_not_written(file):
    size = len(file.to_bytes())
    convolution = _first(file, "FULLY_CONNECTED")
    edits.replace_by_convolution(file, convolution)
    names = {operator.name for operator in file.operators}

    data = file.to_bytes()

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    assert len(model.operatorCodes) == len(names)
    empty = [buffer for buffer in model.buffers if buffer.data is None]
    assert len(empty) == 1
    assert len(data) < size + 500


def test_short_names_are_unique_and_keep_the_interface(file):
    inputs, outputs = file.interface()
    kept = [file.tensor(0, i).name for i in (*inputs, *outputs)]
    file.rename(0, file.operators[0].outputs[0], "bn/batchnorm/mul;conv/Conv2D")

    shorten_names(file)

    names = [tensor.name for tensor in file.tensors()]
    assert "conv/Conv2D" in names
    named = [name for name in names if name]
    assert len(set(named)) == len(named)
    assert [file.tensor(0, i).name for i in (*inputs, *outputs)] == kept
