"""What cannot be exact, or cannot work, is an error that says what to do."""

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from support.plain import export_plain

import codeq_keras
import tflite_export
from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph
from tflite_export.samples import model_inputs


@pytest.fixture(scope="module")
def qmodel():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(3)]
    )
    return codeq_keras.quantize_model(model)


def test_converter_crash_is_an_error_and_not_the_end_of_the_process(rng):
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4)])
    samples = [rng.normal(size=(4, 5, 3)).astype("float32")]

    with pytest.raises(RuntimeError, match="unroll=True"):
        convert(inference_graph(model), model_inputs(model), samples)


def test_misspelt_target_lists_targets_and_suggests_the_closest(qmodel):
    with pytest.raises(
        ValueError, match=r"\['litert', 'litert-sparse', .*you mean 'litert'"
    ):
        tflite_export.export(qmodel, "m.tflite", target="lite-rt")


def test_unquantized_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="quantize_model"):
        tflite_export.export(
            keras.Sequential([keras.Input((2,)), layers.Dense(1)]),
            tmp_path / "m.tflite",
            representative_dataset=np.zeros((1, 2)),
        )


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("model.h5", "must end in '.tflite'"),
        ("nowhere/model.tflite", "in an existing folder"),
    ],
)
def test_wrong_path_is_refused(qmodel, tmp_path, path, text):
    with pytest.raises(ValueError, match=text):
        tflite_export.export(qmodel, tmp_path / path)


def test_missing_samples_are_asked_for_with_their_shape(qmodel, tmp_path):
    with pytest.raises(ValueError, match=r"array of shape \(n, 4, 4, 1\)"):
        tflite_export.export(qmodel, tmp_path / "m.tflite")


def test_samples_of_a_wrong_shape_are_refused(qmodel, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"Expected samples of shape \(n, 4, 4, 1\).*"
        r"Received shape: \(9, 5, 5, 1\)",
    ):
        tflite_export.export(
            qmodel,
            tmp_path / "m.tflite",
            representative_dataset=np.zeros((9, 5, 5, 1)),
        )


def test_weights_with_nan_name_their_layer(grid, rng):
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(2), layers.Dense(1, name="broken")]
    )
    trained = grid(model, rng)
    model.get_layer("broken").bias.assign([np.nan])

    with pytest.raises(ValueError, match=r"diverged in layer '.*broken'"):
        export_plain(
            model,
            trained,
            Path("m.tflite"),
            representative_dataset=np.zeros((1, 2)),
        )


def test_other_backend_is_refused(qmodel, tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")

    with pytest.raises(ValueError, match=r"KERAS_BACKEND=tensorflow"):
        tflite_export.export(
            qmodel,
            tmp_path / "m.tflite",
            representative_dataset=np.zeros((1, 4, 4, 1)),
        )


@keras.saving.register_keras_serializable(package="tests")
class Fourier(layers.Layer):
    """Has no kernel in TFLite's built-in operators."""

    def call(self, inputs):
        return keras.ops.fft((inputs, inputs))[0]


def test_operation_that_cannot_be_converted_is_named(grid, rng, tmp_path):
    model = keras.Sequential([keras.Input((4, 4)), layers.Dense(4), Fourier()])

    with pytest.raises(RuntimeError, match="TF Select ops: Complex, FFT"):
        export_plain(
            model,
            grid(model, rng),
            tmp_path / "model.tflite",
            representative_dataset=rng.normal(size=(4, 4, 4)),
        )
