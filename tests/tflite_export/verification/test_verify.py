"""`verify` proves a file from the file and the model alone."""

import dataclasses

import numpy as np
import pytest
from support.plain import read_samples

from tflite_export import inspect
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.records import Constant
from tflite_export.runtime.interpreter import predict
from tflite_export.verification.verify import compare
from tflite_export.weights.sites import weight_sites


def _compare(exported, data):
    trained = read_samples(exported.model, exported.trained, exported.samples)
    return compare(data, trained)


def _site(file, path, trained):
    size = trained[path].codes.size
    return next(s for s in weight_sites(file) if s.slot.codes.size == size)


def test_untouched_file_is_proven_again(dense_only):
    report = _compare(dense_only, dense_only.result.path.read_bytes())

    assert report == dense_only.result.verification


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


def test_predict_returns_the_dequantized_outputs_of_each_sample(dense_only):
    data = dense_only.result.path.read_bytes()
    expected = dense_only.model(dense_only.samples[0], training=False).numpy()

    outputs = predict(data, dense_only.samples, ["input_0"])["output_0"]
    first = [dense_only.samples[0][:1]]
    one = predict(data, first, ["input_0"])["output_0"]

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


def test_file_of_another_model_is_refused_without_samples(zoo, dense_only):
    trained = read_samples(dense_only.model, dense_only.trained, None)
    file = Flatbuffer(zoo.result.path.read_bytes())

    with pytest.raises(ValueError, match="Is it the file of another model"):
        trained.with_random_samples(file)
