"""Notes and names speak of the user's layers and samples."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from tflite_export.format.records import Tensor
from tflite_export.verification.verify import narrow_features


@pytest.fixture(autouse=True)
def _same_weights():
    keras.utils.set_random_seed(0)


def _exported(model, samples, folder, bits=None, training=None):
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=bits)
    qmodel(samples if training is None else training, training=True)
    return tflite_export.export(
        qmodel, folder / "model.tflite", representative_dataset=samples
    )


def _samples(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype("float32")


def test_notes_and_tensors_have_the_names_of_the_model(tmp_path):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="first")(image)
    inner = keras.Sequential([layers.Conv2D(4, 3, name="second")], name="body")
    x = layers.Flatten()(inner(x))
    x = layers.Dense(8, activation="relu", name="hidden")(x)
    model = keras.Model(image, layers.Dense(3, name="head")(x))

    result = _exported(model, _samples(8, 8, 8, 3), tmp_path)

    names = {row.name for row in tflite_export.inspect(result.path).tensors}
    weights = {"first/kernel", "body/second/kernel", "head/kernel"}
    assert weights <= names
    assert {"first/bias", "body/second/bias"} & names
    dense = [line for line in str(result).splitlines() if "head/k" in line]
    assert len(dense) == 1
    assert "2 weights (hidden/kernel (8x64), head/kernel (3x8))" in dense[0]


def test_features_narrower_than_a_step_are_named(tmp_path):
    x = keras.Input((3,), name="sensor")
    model = keras.Model(x, layers.Dense(4)(layers.Rescaling([1, 1e-6, 1])(x)))
    samples = _samples(64, 3) * np.float32([1, 1e6, 1])

    result = _exported(model, samples, tmp_path)

    assert result.verification.narrow_features == {"sensor": (0, 2)}
    assert "Normalize" in str(result)


def test_scores_beside_boxes_are_narrow():
    scale = np.array([4.0], np.float32)
    zero = np.array([0])
    tensor = Tensor(0, "both", "int8", (1, 4), None, scale, zero, 0, 0)
    values = _samples(64, 4) * np.float32([1000, 1000, 1, 0])

    # A constant has nothing to lose.
    assert narrow_features({"y": tensor}, {"y": values}) == {"y": (2,)}


def test_features_of_one_size_are_not_named(tmp_path):
    x = keras.Input((3,))
    result = _exported(
        keras.Model(x, layers.Dense(4)(x)), _samples(32, 3), tmp_path
    )
    assert not result.verification.narrow_features


def test_samples_of_another_size_than_in_training_are_noted(tmp_path):
    x = keras.Input((8,), name="image")
    model = keras.Model(x, layers.Dense(4)(x))
    training = _samples(32, 8)

    right = _exported(model, training, tmp_path, 8, training)
    bytes_ = _exported(model, np.uint8(255 * training), tmp_path, 8, training)

    assert not any("'image'" in note for note in right.notes)
    assert any("'image' reach 25" in note for note in bytes_.notes)


def test_a_list_of_images_is_to_be_stacked():
    image = keras.Input((4, 4, 1))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    qmodel = codeq_keras.quantize_model(model)

    with pytest.raises(ValueError, match=r"np\.stack\(samples\)"):
        tflite_export.export(
            qmodel, "model.tflite", representative_dataset=[_samples(4, 4, 1)]
        )
