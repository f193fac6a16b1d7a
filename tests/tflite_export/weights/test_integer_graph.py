"""The trained codes replace the converter's, and the values stay."""

import numpy as np
import pytest

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.format.names import shorten_names
from tflite_export.format.records import Constant
from tflite_export.runtime.interpreter import predict
from tflite_export.trained_model import read_plain
from tflite_export.weights.integer_graph import write_codes
from tflite_export.weights.sites import weight_sites


def _hidden(file):
    """The kernel `hidden/kernel` in the file."""
    return next(s for s in weight_sites(file) if s.slot.codes.size == 6 * 12)


def test_writing_exact_weights_again_changes_nothing(dense_only):
    data = dense_only.result.path.read_bytes()
    file = Flatbuffer(data)
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    write_codes(file, dense_only.trained, kernels)
    shorten_names(file, keeps_all=False)  # It names the biases again.

    assert file.to_bytes() == data


@pytest.mark.parametrize("gains", ["equal", "different"])
def test_dense_with_one_scale_is_made_exact(dense_only, gains):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = dense_only.trained["hidden/kernel"]
    site = _hidden(file)
    factors = np.full((12, 1), 127 / 7)
    if gains == "different":
        factors = np.linspace(6, 127 / 7, 12)[:, None]
    held = np.round(factors * weight.codes.T).astype(np.int8)
    one_scale = np.array([0.01], np.float32)
    file.replace_inputs({site.site: Constant(held, one_scale, 0)})
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    write_codes(file, dense_only.trained, kernels)

    tensor = _hidden(file).tensor
    assert np.array_equal(tensor.data, weight.codes.T)
    assert tensor.scales.size == (1 if gains == "equal" else 12)
    # Each weight keeps its value, within half of the old scale.
    values = tensor.data * tensor.scales[:, None]
    assert np.abs(values - held * one_scale).max() <= 0.6 * one_scale[0]
    file_outputs = predict(file.to_bytes(), dense_only.samples, ["input_0"])
    assert np.isfinite(file_outputs["output_0"]).all()


def test_limited_scale_is_estimated_and_noted(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = dense_only.trained["hidden/kernel"]
    site = _hidden(file)
    held = np.round(2.9 * weight.codes.T).astype(np.int8)
    file.replace_inputs({site.site: Constant(held, np.ones(12, np.float32), 0)})
    kernels = read_plain(dense_only.model, dense_only.trained).kernels

    notes = write_codes(file, dense_only.trained, kernels).notes

    tensor = _hidden(file).tensor
    assert np.array_equal(tensor.data, weight.codes.T)
    peak = np.abs(weight.codes).max(axis=0)
    assert np.all(np.abs(tensor.scales - 2.9) <= 0.5 / peak)
    assert any("limited the scale of 12 channels" in note for note in notes)


def test_bias_that_overflows_int32_names_the_layer(dense_only):
    file = Flatbuffer(dense_only.result.path.read_bytes())
    weight = dense_only.trained["hidden/kernel"]
    site = _hidden(file)
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
        write_codes(file, dense_only.trained, kernels)
