"""A TFMOT model in a `.tflite` file: the codes are exact, without samples."""

import numpy as np
import pytest
import tf_keras
from support.qat_models import (
    compiled,
    every_pattern,
    images,
    layers,
    quantize,
    randomize,
    sequential,
)

import tflite_export
from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import report
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.weights.sites import weight_sites


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    model, x, _ = trained
    path = tmp_path_factory.mktemp("export") / "model.tflite"
    return tflite_export.export(model, path, representative_dataset=x)


def test_every_code_is_in_the_file(exported):
    assert exported.verification.codes_equal
    assert exported.verification.num_tensors == 12


def test_every_operator_computes_in_int8(exported):
    assert Flatbuffer(exported.path.read_bytes()).float_operators() == {}
    assert not [note for note in exported.notes if "float32" in note]


def test_outputs_agree_with_the_model(exported):
    # Two roundings of each activation may fall on different sides of a tie.
    assert exported.verification.max_output_lsb < 4
    assert exported.verification.top1_agreement >= 0.98


def test_verify_finds_the_codes_in_the_file(exported, trained):
    model, x, _ = trained

    assert tflite_export.verify(exported.path, model, x).codes_equal


def test_verify_finds_another_models_codes_missing(exported, rng):
    other = quantize(randomize(every_pattern(), rng))

    result = tflite_export.verify(
        exported.path, other, rng.random((2, 8, 8, 3))
    )

    assert len(result.unequal) > 8


@pytest.mark.parametrize(
    "config",
    [
        CoDeQConfig(level_grid="uniform"),
        CoDeQConfig(initial_dead_zone_logit=0.2),
        pytest.param(CoDeQConfig(bit_width=2), marks=pytest.mark.slow),
        pytest.param(CoDeQConfig(bit_width=8), marks=pytest.mark.slow),
    ],
    ids=["uniform", "sparse", "2 bits", "8 bits"],
)
def test_no_samples_are_needed(config, rng, tmp_path):
    # Large kernels take another way through the converter than small ones.
    model = sequential(
        layers.Conv2D(48, 3, use_bias=False),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(8, 3),
        layers.ReLU(),
        layers.Flatten(),
        layers.Dense(20),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(3),
    )
    qat_model = quantize(randomize(model, rng), config)
    qat_model(images(rng)[0], training=True)

    result = tflite_export.export(qat_model, tmp_path / "m.tflite")

    assert result.verification.codes_equal
    assert result.verification.max_output_lsb <= 3
    assert any("64 random inputs" in note for note in result.notes)


def test_scale_per_channel_is_exact(rng, tmp_path):
    model = randomize(
        sequential(
            layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()
        ),
        rng,
    )
    qat_model = quantize(model, CoDeQConfig(axis=-1))
    qat_model(images(rng)[0], training=True)

    result = tflite_export.export(qat_model, tmp_path / "m.tflite")

    assert result.verification.codes_equal


def test_zeros_of_the_file_are_the_pruned_weights(rng, tmp_path):
    model = sequential(layers.Conv2D(8, 3), layers.ReLU())
    qat_model = quantize(model, CoDeQConfig(initial_dead_zone_logit=0.3))
    qat_model(images(rng)[0], training=True)

    result = tflite_export.export(qat_model, tmp_path / "m.tflite")

    [site] = weight_sites(Flatbuffer(result.path.read_bytes()))
    zeros = float(np.mean(site.slot.codes == 0))
    assert zeros == pytest.approx(report(qat_model).sparsity)
    assert zeros > 0.5


def test_kernel_left_to_tfmot_is_noted(rng, tmp_path):
    model = sequential(layers.Flatten(), layers.Dense(4), layers.Dense(3))
    name = model.layers[-1].name
    qat_model = quantize(model, overrides={f"^{name}/": None})
    qat_model(images(rng)[0], training=True)

    result = tflite_export.export(qat_model, tmp_path / "m.tflite")

    assert result.verification.num_tensors == 1
    expected = f"'{name}/kernel': not quantized"
    assert any(expected in note for note in result.notes)


def test_layer_that_stays_in_float_is_refused_by_name(rng, tmp_path):
    # Not rewritten as a convolution, so the converter leaves it in float.
    model = sequential(
        layers.Flatten(),
        layers.Dense(
            8, name="held", kernel_constraint=tf_keras.constraints.MaxNorm()
        ),
        layers.BatchNormalization(),
        layers.Dense(3),
    )
    qat_model = compiled(quantize(randomize(model, rng)))

    with pytest.raises(ValueError, match="'held/kernel': no operator holds it"):
        tflite_export.export(qat_model, tmp_path / "m.tflite")


def test_grid_of_the_paper_is_refused(tmp_path):
    qat_model = quantize(
        sequential(layers.Dense(3)), CoDeQConfig(level_grid="paper")
    )

    with pytest.raises(ValueError, match=r"'dead_zone'.*or 'uniform'"):
        tflite_export.export(qat_model, tmp_path / "m.tflite")


def test_model_of_tf_keras_without_codeq_is_refused(tmp_path):
    with pytest.raises(ValueError, match="scheme=CoDeQScheme"):
        tflite_export.export(sequential(layers.Dense(3)), tmp_path / "m.tflite")
