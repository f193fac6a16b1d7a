"""`verify` proves a file from the file and the model alone."""

import dataclasses

import numpy as np
import pytest
from support.plain import read_samples

from tflite_export import inspect
from tflite_export.format.flatbuffer import Constant, Flatbuffer
from tflite_export.runtime.interpreter import predict
from tflite_export.trained_model import read_plain
from tflite_export.verification.verify import compare
from tflite_export.weights.integer_graph import (
    unequal_weights,
    write_exact_weights,
)
from tflite_export.weights.sites import weight_sites


def _compare(exported, data):
    trained = read_samples(exported.model, exported.trained, exported.samples)
    return compare(data, trained)


def _unequal(exported, file):
    kernels = read_plain(exported.model, exported.trained).kernels
    return unequal_weights(
        file, exported.trained, kernels, {"silent/kernel": 1}
    )


def _site(file, path, trained):
    size = trained[path].codes.size
    return next(s for s in weight_sites(file) if s.slot.codes.size == size)


def test_untouched_file_is_proven_again(dense_only):
    report = _compare(dense_only, dense_only.result.path.read_bytes())

    assert report == dense_only.result.verification


@pytest.mark.parametrize(
    "path",
    ["conv/kernel", "depthwise/kernel", "multiplier/kernel", "dense/kernel"],
)
def test_one_changed_code_is_found_and_named(zoo, path):
    file = Flatbuffer(zoo.result.path.read_bytes())
    site = _site(file, path, zoo.trained)
    codes = site.slot.codes.copy()
    position = np.flatnonzero(codes)[0]
    codes.flat[position] -= np.sign(codes.flat[position])
    changed = Constant(codes, site.tensor.scales, site.tensor.axis)

    file.replace_inputs({site.site: changed})

    assert _unequal(zoo, file) == [path]


def test_one_new_weight_in_a_second_copy_is_found(zoo):
    # The layer `shared` is read by two operators; one gets a changed copy.
    file = Flatbuffer(zoo.result.path.read_bytes())
    kernel = zoo.trained["shared/kernel"].codes.transpose(3, 0, 1, 2)
    readers = [
        s for s in weight_sites(file) if np.array_equal(s.slot.codes, kernel)
    ]
    assert len(readers) == 2
    site = readers[0]
    codes = site.slot.codes.copy()
    codes.flat[np.flatnonzero(codes == 0)[0]] = 5
    changed = Constant(codes, site.tensor.scales, site.tensor.axis)

    file.replace_inputs({site.site: changed})

    assert _unequal(zoo, file) == ["shared/kernel"]


def test_unrecorded_channel_of_zeros_is_found(zoo):
    file = Flatbuffer(zoo.result.path.read_bytes())
    kernels = read_plain(zoo.model, zoo.trained).kernels

    assert unequal_weights(file, zoo.trained, kernels, {}) == ["silent/kernel"]


def test_report_of_a_changed_file_says_so(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    site = _site(file, "hidden/kernel", dense_only.trained)
    codes = -site.slot.codes
    codes[0, :] = np.roll(codes[0, :], 1)
    changed = Constant(codes, site.tensor.scales, site.tensor.axis)
    file.replace_inputs({site.site: changed})

    report = _compare(dense_only, file.to_bytes())

    assert not report.codes_equal
    assert report.unequal == ("hidden/kernel",)
    assert "1 of 2 tensors equal" in str(report)
    assert "DIFFERENT: hidden/kernel" in str(report)
    assert report.max_output_lsb > 10


def test_writing_exact_weights_again_changes_nothing(dense_only):
    data = dense_only.result.path.read_bytes()
    file = Flatbuffer(data)
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    write_exact_weights(file, dense_only.trained, kernels)

    assert file.to_bytes() == data


@pytest.mark.parametrize("gains", ["equal", "different"])
def test_dense_with_one_scale_is_made_exact(dense_only, gains):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = dense_only.trained["hidden/kernel"]
    site = _site(file, "hidden/kernel", dense_only.trained)
    factors = np.full((12, 1), 127 / 7)
    if gains == "different":
        factors = np.linspace(6, 127 / 7, 12)[:, None]
    held = np.round(factors * weight.codes.T).astype(np.int8)
    one_scale = np.array([0.01], np.float32)
    file.replace_inputs({site.site: Constant(held, one_scale, 0)})
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    write_exact_weights(file, dense_only.trained, kernels)

    tensor = _site(file, "hidden/kernel", dense_only.trained).tensor
    assert np.array_equal(tensor.data, weight.codes.T)
    assert tensor.scales.size == (1 if gains == "equal" else 12)
    # Each weight keeps its value, within half of the old scale.
    values = tensor.data * tensor.scales[:, None]
    assert np.abs(values - held * one_scale).max() <= 0.6 * one_scale[0]
    file_outputs = predict(file.to_bytes(), dense_only.samples, ["input_0"])
    assert np.isfinite(file_outputs[0]).all()


def test_limited_scale_is_estimated_and_noted(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = dense_only.trained["hidden/kernel"]
    site = _site(file, "hidden/kernel", dense_only.trained)
    held = np.round(2.9 * weight.codes.T).astype(np.int8)
    file.replace_inputs({site.site: Constant(held, np.ones(12, np.float32), 0)})
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    notes = write_exact_weights(file, dense_only.trained, kernels).notes

    tensor = _site(file, "hidden/kernel", dense_only.trained).tensor
    assert np.array_equal(tensor.data, weight.codes.T)
    peak = np.abs(weight.codes).max(axis=0)
    assert np.all(np.abs(tensor.scales - 2.9) <= 0.5 / peak)
    assert any("limited the scale of 12 channels" in note for note in notes)


def test_bias_that_overflows_int32_names_the_layer(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = dense_only.trained["hidden/kernel"]
    site = _site(file, "hidden/kernel", dense_only.trained)
    bias_site, bias = site.bias
    # Integers of a limited scale: the exact one is 0.6 times that.
    held = np.round(0.6 * weight.codes.T).astype(np.int8)
    huge = np.full_like(bias.data, int(0.7 * 2**31))
    file.replace_inputs(
        {
            site.site: Constant(held, site.tensor.scales, 0),
            bias_site: Constant(huge, bias.scales, 0),
        }
    )
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    with pytest.raises(ValueError, match="bias of 'hidden/kernel'"):
        write_exact_weights(file, dense_only.trained, kernels)


def test_predict_returns_the_dequantized_outputs_of_each_sample(dense_only):
    data = dense_only.result.path.read_bytes()
    expected = dense_only.model(dense_only.samples[0], training=False).numpy()

    (outputs,) = predict(data, dense_only.samples, ["input_0"])
    (one,) = predict(data, [dense_only.samples[0][:1]], ["input_0"])

    scale = Flatbuffer(data).outputs()["output_0"].scales[0]
    report = dense_only.result.verification
    assert outputs.shape == expected.shape == (16, 1)
    assert np.abs(outputs - expected).max() / scale == pytest.approx(
        report.max_output_lsb, rel=1e-3
    )
    assert np.array_equal(one, outputs[:1])


def test_inspect_counts_zeros_and_values_of_the_trained_integers(dense_only):
    codes = dense_only.trained["hidden/kernel"].codes

    inspection = inspect(dense_only.result.path)

    row = next(r for r in inspection.tensors if r.shape == (12, 6))
    assert row.operator == "FULLY_CONNECTED"
    assert row.dtype == "int8"
    assert row.num_zeros == (codes == 0).sum()
    assert row.num_distinct == np.unique(codes).size
    assert row.size_bytes == 12 * 6
    assert 0 < row.entropy_bits < 4
    assert "FULLY_CONNECTED" in str(inspection)
    assert f"{inspection.size_bytes:,} bytes" in str(inspection)


def test_file_of_another_model_is_refused(zoo, dense_only):
    with pytest.raises(ValueError, match=r"\[\(6,\)\].*Received: \[\(8, 8, 3"):
        _compare(dense_only, zoo.result.path.read_bytes())


def test_report_cannot_be_changed(dense_only):
    with pytest.raises(dataclasses.FrozenInstanceError):
        dense_only.result.verification.codes_equal = True
