"""From `codeq_keras.quantize_model` to the proven file, and back again."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from tflite_export import inspect


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(48, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def qmodel(images):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            layers.Conv2D(8, 3, use_bias=False, name="stem"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(16, activation="relu", name="hidden"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )
    config = codeq_keras.CoDeQConfig
    qmodel = codeq_keras.quantize_model(
        model,
        config(bit_width=4),
        overrides={
            "hidden": config(bit_width=3, level_grid="uniform"),
            "depthwise": config(bit_width=8, axis=-1),
        },
    )
    qmodel.compile("adam", loss="sparse_categorical_crossentropy")
    labels = np.random.default_rng(1).integers(0, 4, len(images))
    qmodel.fit(images, labels, epochs=2, batch_size=16, verbose=0)
    return qmodel


@pytest.fixture(scope="module")
def result(qmodel, images, tmp_path_factory):
    return tflite_export.export(
        qmodel,
        tmp_path_factory.mktemp("trained") / "model.tflite",
        target="litert",
        representative_dataset=images,
    )


def test_trained_model_is_exported_exactly(result):
    assert result.verification.codes_equal
    assert result.verification.num_tensors == 4
    # Five int8 layers, each of which rounds its activations once.
    assert result.verification.max_output_lsb < 4


def test_integers_in_the_file_are_those_of_quantized_weights(qmodel, result):
    codes = codeq_keras.quantized_weights(qmodel)["hidden/kernel"].codes

    rows = inspect(result.path).tensors

    row = next(r for r in rows if r.shape == codes.T.shape)
    assert row.num_zeros == (codes == 0).sum()
    assert row.num_distinct == np.unique(codes).size <= 2**3 - 1


def test_verify_needs_only_the_file_and_the_model(qmodel, result, images):
    report = tflite_export.verify(result.path, qmodel, images)

    assert report == result.verification


def test_verify_tells_another_model_apart(qmodel, result, images):
    changed = codeq_keras.quantize_model(codeq_keras.strip_quantizers(qmodel))
    kernel = changed.kernels[-1].variable
    kernel.assign(-1.0 * np.asarray(kernel)[::-1])

    report = tflite_export.verify(result.path, changed, images)

    assert not report.codes_equal
    assert "head/kernel" in report.unequal


def test_paper_grid_is_refused_with_the_other_two_named(tmp_path, images):
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(3)]
    )
    qmodel = codeq_keras.quantize_model(
        model, codeq_keras.CoDeQConfig(level_grid="paper")
    )

    with pytest.raises(ValueError, match="paper"):
        tflite_export.export(
            qmodel, tmp_path / "m.tflite", representative_dataset=images
        )


def test_subclassed_model_is_exported_exactly(tmp_path, images):
    qmodel = codeq_keras.quantize_model(Subclassed.built())

    result = tflite_export.export(
        qmodel, tmp_path / "m.tflite", representative_dataset=images
    )

    assert result.verification.codes_equal


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 3, activation="relu")
        self.head = layers.Dense(3)

    @classmethod
    def built(cls):
        model = cls()
        model(np.zeros((1, 8, 8, 1), "float32"))
        return model

    def build(self, input_shape):
        self.conv.build(input_shape)
        self.head.build((None, 6 * 6 * 4))
        self.built = True

    def call(self, inputs):
        x = self.conv(inputs)
        return self.head(keras.ops.reshape(x, (-1, 6 * 6 * 4)))


def test_calibrated_model_without_a_training_is_exported_exactly(
    tmp_path, images
):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.SeparableConv2D(8, 3),
            layers.AveragePooling2D(2),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=8)
    codeq_keras.calibrate_activations(qmodel, images)

    result = tflite_export.export(qmodel, tmp_path / "model.tflite")

    assert result.verification.codes_equal
    # The ranges are in the file, so that both round at the same places.
    assert result.verification.max_output_lsb <= 1
