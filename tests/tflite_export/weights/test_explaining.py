"""Codes that a file cannot hold are an error that says what to change."""

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import Affine
from support.plain import export_plain

from tflite_export.conversion.converter import convert
from tflite_export.conversion.graphs import inference_graph
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.samples import model_inputs
from tflite_export.trained_model import read_plain
from tflite_export.weights.integer_graph import write_codes

OLD = b"an older file"


@pytest.fixture
def old_file(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(OLD)
    return path


def test_batch_norm_before_custom_dense_is_refused_and_keeps_the_old_file(
    grid, rng, old_file
):
    model = keras.Sequential(
        [
            keras.Input((8,)),
            layers.Dense(24, activation="relu", name="hidden"),
            layers.BatchNormalization(),
            Affine(10, name="classifier"),
        ],
        name="head",
    )
    trained = grid(model, rng)

    with pytest.raises(
        ValueError,
        match=r"BatchNormalization in front of layer 'classifier'",
    ) as error:
        export_plain(
            model,
            trained,
            old_file,
            representative_dataset=rng.normal(size=(8, 8)),
        )

    assert "hidden/kernel" not in str(error.value)
    assert old_file.read_bytes() == OLD
    assert list(old_file.parent.iterdir()) == [old_file]


def test_kernel_that_no_operator_holds_is_named(zoo, weight, rng):
    file = Flatbuffer(zoo.result.path.read_bytes())
    lost = weight(np.ones((5, 7), np.int8), np.float32(1))
    trained = zoo.trained | {"lost/kernel": lost}
    kernels = read_plain(zoo.model, zoo.trained).kernels
    kernels["lost/kernel"] = lost.codes

    with pytest.raises(ValueError, match="'lost/kernel': no operator holds it"):
        write_codes(file, trained, kernels)


def test_scale_along_an_input_axis_is_refused(weight, rng):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(8, name="head")])
    codes = rng.integers(1, 8, (6, 8)).astype(np.int8)
    scale = rng.uniform(0.05, 0.2, (6, 1)).astype(np.float32)
    model.layers[0].kernel.assign(codes * scale)
    trained = {"head/kernel": weight(codes, scale)}
    samples = [rng.normal(size=(8, 6)).astype("float32")]
    data = convert(inference_graph(model), model_inputs(model), samples)
    file = Flatbuffer(data)

    with pytest.raises(ValueError, match="scale varies along an input axis"):
        write_codes(file, trained, read_plain(model, trained).kernels)
