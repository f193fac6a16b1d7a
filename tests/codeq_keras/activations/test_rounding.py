"""The plain model that rounds its activations as the quantized one."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras


def branches():
    """Layers that are split, averages, a join and a softmax."""
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.SeparableConv2D(4, 3, padding="same", name="separable")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    pooled = layers.AveragePooling2D(2, name="pool")(x)
    other = layers.Conv2D(4, 2, strides=2, name="conv")(x)
    x = layers.Flatten()(layers.Concatenate()([pooled, other]))
    x = layers.Dense(6, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, activation="softmax")(x))


def nested():
    """Two models with layers of the same names, and two outputs in a dict."""
    inputs = keras.Input((8, 8, 3), name="image")
    blocks = [
        keras.Sequential(
            [keras.Input((8, 8, 3)), layers.Conv2D(3, 3, name="conv",
             padding="same"), layers.ReLU(name="relu")],
            name=name,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    x = inputs
    for block in blocks:
        x = block(x)
    pooled = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, {"map": x + 1.0, "mean": pooled})


def colliding():
    """A nested layer whose path is the name of another, and list outputs."""
    inputs = keras.Input((8, 8, 3), name="image")
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(3, 1, name="d")], name="inner"
    )
    x = layers.Dense(3, activation="sigmoid", name="inner_d")(inner(inputs))
    total = layers.Add(name="sum")([x, inputs])
    flat = layers.Flatten(name="flat")(total)
    head = layers.Dense(4, activation="softmax", name="head")(flat)
    return keras.Model(inputs, [head, total, x, inner(total), flat])


def with_twin_outputs():
    """One layer that computes two outputs, which share its name."""
    inputs = keras.Input((8, 8, 3), name="image")
    shared = layers.Dense(3, name="shared")
    x = shared(inputs)
    return keras.Model(inputs, [x, shared(x), x])


def values(outputs):
    flat = keras.tree.flatten(outputs)
    return [keras.ops.convert_to_numpy(output) for output in flat]


@pytest.mark.parametrize(
    "build", [branches, nested, colliding, with_twin_outputs]
)
def test_outputs_are_those_of_the_quantized_model(build, data, tmp_path):
    keras.utils.set_random_seed(0)
    qmodel = codeq_keras.quantize_model(build(), activation_bit_width=8)
    x = data[0]
    codeq_keras.calibrate_activations(qmodel, x)

    rounded = codeq_keras.strip_quantizers(qmodel, rounded_activations=True)
    rounded.save(tmp_path / "rounded.keras")
    loaded = keras.saving.load_model(tmp_path / "rounded.keras")

    expected = values(qmodel(x, training=False))
    floats = values(codeq_keras.strip_quantizers(qmodel)(x, training=False))
    for each, plain in zip(expected, floats, strict=True):
        assert not np.array_equal(each, plain)
    for model in rounded, loaded:
        found = values(model(x, training=False))
        for left, right in zip(found, expected, strict=True):
            # The same operations; a tie that falls otherwise is a step.
            np.testing.assert_allclose(left, right, atol=1e-6)
    kinds = {type(operation).__module__ for operation in rounded.operations}
    assert all(kind.startswith("keras.") for kind in kinds)


def test_rounding_needs_ranges(cnn):
    qmodel = codeq_keras.quantize_model(cnn)

    with pytest.raises(ValueError, match="activation_bit_width=None"):
        codeq_keras.strip_quantizers(qmodel, rounded_activations=True)


def test_outputs_have_the_names_of_the_model(data, tmp_path):
    qmodel = codeq_keras.quantize_model(colliding(), activation_bit_width=8)
    codeq_keras.calibrate_activations(qmodel, data[0])

    rounded = codeq_keras.strip_quantizers(qmodel, rounded_activations=True)
    rounded.save(tmp_path / "rounded.keras")
    loaded = keras.saving.load_model(tmp_path / "rounded.keras")

    expected = ["head", "sum", "inner_d", "inner", "flat"]
    assert rounded.output_names == loaded.output_names == expected
    labels = dict(
        zip(expected, rounded.predict(data[0], verbose=0), strict=True)
    )
    rounded.compile(loss=dict.fromkeys(expected, "mse"))
    assert rounded.evaluate(data[0], labels, verbose=0)[0] < 1e-6
