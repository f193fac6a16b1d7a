"""FileTemplate: the bytes of a file before it is written."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from codeq_keras.deployment import expected_codes
from codeq_keras.quantizers.supposed import restored, suppose
from tflite_export.targets.target import find_target
from tflite_export.targets.template import FileMeter, FileTemplate
from tflite_export.trained_model import read_model


@pytest.fixture(scope="module")
def qmodel():
    """A network with BatchNorm, both signs of gamma, and Dense."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, use_bias=False, name="conv"),
            layers.BatchNormalization(
                gamma_initializer=keras.initializers.RandomUniform(-1.0, 1.0)
            ),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2D(32, 3, name="wide", activation="relu"),
            layers.Flatten(),
            layers.Dense(4, name="head", bias_initializer="ones"),
        ]
    )
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    samples = np.random.default_rng(0).normal(size=(32, 8, 8, 3))
    codeq_keras.calibrate_activations(qmodel, samples.astype("float32"))
    return qmodel


@pytest.mark.parametrize(
    "target", ["litert", "tflm", "tflm,max_arena_bytes=9000"]
)
def test_foreseen_bytes_are_those_of_the_export(qmodel, tmp_path, target):
    template = FileTemplate(read_model(qmodel, None), find_target(target))
    dense = template.num_bytes(expected_codes(qmodel, 0.0))
    foreseen = template.num_bytes(expected_codes(qmodel, 0.8))

    path = tmp_path / "model.tflite"
    with restored(qmodel.kernels):
        suppose(qmodel.kernels, [0.2] * len(qmodel.kernels))
        result = tflite_export.export(qmodel, path, target=target)
    assert result.size_bytes == foreseen < 0.8 * dense


def test_kernels_take_the_bytes_that_the_file_has_for_weights(qmodel):
    sizes = FileMeter(qmodel, "litert").kernel_bytes(qmodel)

    assert sizes["depthwise/kernel"] == 9 * 16
    assert sizes["head/kernel"] == 2 * 2 * 32 * 4


def test_report_says_where_the_bytes_of_the_file_would_go(qmodel, tmp_path):
    path = tmp_path / "model.tflite"
    tflite_export.export(qmodel, path, target="tflm")

    report = codeq_keras.report(qmodel, target="tflm")

    account = tflite_export.inspect(path).account
    assert report.file.bytes_by_layer == account.by_layer
    assert report.file.bytes_by_kind == account.by_kind
    assert report.to_dict()["file"]["size_bytes"] == path.stat().st_size
    assert f"file bytes     {path.stat().st_size:,} for 'tflm'" in str(report)


def test_removed_channels_are_measured_without_them(qmodel):
    gated = codeq_keras.quantize_model(
        qmodel.latent_model, activation_bit_width=8, channel_multiple=8
    )
    meter = FileMeter(gated, "litert")
    before = meter.num_bytes(gated)
    gates = gated.channel_gates
    gates.held_counts.assign([8.0] * len(gates.numbers))
    assert meter.num_bytes(gated) < before


def test_check_says_the_bytes_to_expect(qmodel):
    facts = tflite_export.check(qmodel, target="litert").facts

    sizes = [facts[f"bytes with {part} zeros"] for part in ("0%", "80%", "90%")]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_check_of_a_target_that_stores_no_zeros_says_one_number(qmodel):
    facts = tflite_export.check(qmodel, target="edgetpu").facts
    assert facts["bytes"] > facts["weight_bytes"]
