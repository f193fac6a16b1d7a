"""The numbers, the table and the picture of a report."""

import json
import math

import keras
import numpy as np
import pytest

import codeq_keras
from codeq_keras import CoDeQConfig


@pytest.fixture
def qmodel(cnn):
    return codeq_keras.quantize_model(cnn, overrides={"head": None})


def test_relative_bops_is_the_papers(qmodel):
    report = codeq_keras.report(qmodel)

    # Eq. (20)-(22); the float head counts with 32 bits and no zeros.
    macs = [3 * 3 * 3 * 4 * 6 * 6, 3 * 3 * 4 * 4 * 4, 4 * 4 * 4 * 3]
    conv, depthwise, _ = report.layers
    bits = [4 * (1 - conv.sparsity), 4 * (1 - depthwise.sparsity), 32]
    expected = np.dot(macs, bits) / (32 * sum(macs))
    assert report.relative_bops == pytest.approx(expected)
    assert "(32-bit activations)" in str(report)


def test_numbers_agree_with_the_codes(qmodel):
    report = codeq_keras.report(qmodel)
    weights = codeq_keras.quantized_weights(qmodel)

    zeros = sum(np.sum(w.codes == 0) for w in weights.values())
    size = sum(w.codes.size for w in weights.values())
    assert report.sparsity == pytest.approx(zeros / size)
    assert report.mean_bit_width == 4
    conv = report.layers[0]
    _, counts = np.unique(weights["conv/kernel"].codes, return_counts=True)
    p = counts / counts.sum()
    assert conv.entropy_bits == pytest.approx(-sum(p * np.log2(p)))
    assert len(conv.levels) == len(counts)


@pytest.mark.parametrize("logit", [0.5, 3.0], ids=["sparse", "dense"])
def test_size_is_the_entropy_of_equally_likely_levels(cnn, logit):
    config = CoDeQConfig(bit_width=4, initial_dead_zone_logit=logit)

    conv = codeq_keras.report(codeq_keras.quantize_model(cnn, config)).layers[0]

    bits = math.log2(2**4 - 1)
    z = conv.sparsity
    if z > 1 / (2**4 - 1):
        zero_or_not = -z * math.log2(z) - (1 - z) * math.log2(1 - z)
        bits = zero_or_not + (1 - z) * math.log2(2**4 - 2)
    assert conv.size_bytes == round(3 * 3 * 3 * 4 * bits / 8 + 4)
    assert conv.entropy_bits < bits


def test_kernel_left_in_float_is_in_the_report(qmodel):
    head = codeq_keras.report(qmodel).layers[-1]

    assert not head.is_quantized
    assert head.bit_width == 32
    assert head.size_bytes == 4 * (4 * 4 * 4 * 3)
    assert "head/kernel" in str(codeq_keras.report(qmodel))
    assert "left in float" in str(codeq_keras.report(qmodel))


def test_to_dict_is_json(qmodel):
    report = codeq_keras.report(qmodel)

    loaded = json.loads(json.dumps(report.to_dict()))

    assert loaded["relative_bops"] == report.relative_bops
    assert loaded["layers"][0]["path"] == "conv/kernel"


@pytest.mark.parametrize("level_grid", ["dead_zone", "uniform", "paper"])
@pytest.mark.parametrize("axis", [None, -1])
def test_plot_writes_a_picture(cnn, tmp_path, level_grid, axis):
    config = CoDeQConfig(level_grid=level_grid, axis=axis)
    report = codeq_keras.report(codeq_keras.quantize_model(cnn, config))
    path = tmp_path / "report.png"

    report.plot(path)

    assert path.read_bytes().startswith(b"\x89PNG")


def test_unknown_macs_are_said(data):
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs))

    report = codeq_keras.report(codeq_keras.quantize_model(model))

    assert report.relative_bops is None
    assert "unknown: an input size is not fixed" in str(report)


def test_model_left_in_float_has_no_sparsity(cnn):
    qmodel = codeq_keras.quantize_model(cnn, overrides={"": None})

    report = codeq_keras.report(qmodel)

    assert report.sparsity == 0.0
    assert report.mean_bit_width == 32
    assert report.relative_bops == 1.0


def test_skipped_layers_are_listed_with_reasons(qmodel):
    report = codeq_keras.report(qmodel)

    reasons = {layer.path: layer.reason for layer in report.skipped}
    assert reasons == {
        "norm": "no kernel, only biases, gains or statistics",
        "head": "by choice",
    }
    assert "skipped        head: by choice" in str(report)
    assert report.to_dict()["skipped"][1] == {
        "path": "head",
        "reason": "by choice",
    }


def test_skipped_layers_of_one_reason_take_one_line():
    keep = keras.layers.PReLU
    model = keras.Sequential(
        [
            keras.Input((8, 4)),
            keras.layers.Dense(4),
            *(keep(name=f"act_{i}") for i in range(5)),
        ]
    )

    text = str(codeq_keras.report(codeq_keras.quantize_model(model)))

    line = "act_0, act_1, act_2 and 2 more: used element by element"
    assert f"skipped        {line}" in text
