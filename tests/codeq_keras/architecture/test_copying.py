"""Models that are no float models are refused, with the way to one."""

import pathlib

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from codeq_keras import CoDeQConfig


def dense():
    return keras.Sequential(
        [keras.Input((16,)), layers.Dense(8, name="body"), layers.Dense(3)]
    )


def quantized_by_keras(mode):
    model = dense()
    model.get_layer("body").quantize(mode)
    return model


def nested_in_quantized():
    inner = codeq_keras.quantize_model(dense())
    inputs = keras.Input((16,))
    return keras.Model(inputs, layers.Dense(2)(inner(inputs)))


def with_lora(make_layer, shape):
    layer = make_layer()
    model = keras.Sequential([keras.Input(shape), layer])
    layer.enable_lora(2)
    return model


REFUSED = {
    "int8": (lambda: quantized_by_keras("int8"), "quantized to 'int8'"),
    "int4": (lambda: quantized_by_keras("int4"), "quantized to 'int4'"),
    "float8": (lambda: quantized_by_keras("float8"), "quantized to 'float8'"),
    "lora dense": (
        lambda: with_lora(lambda: layers.Dense(8), (4,)),
        "without LoRA",
    ),
    "lora convolution": (
        lambda: with_lora(lambda: layers.Conv2D(8, 3), (8, 8, 3)),
        "without LoRA",
    ),
    "lora embedding": (
        lambda: with_lora(lambda: layers.Embedding(9, 4), (5,)),
        "without LoRA",
    ),
    "quantized inside": (nested_in_quantized, "quantized already"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize(
    "function",
    [codeq_keras.quantize_model, codeq_keras.quantize_annotate_model],
)
def test_weights_that_are_no_float_kernel_are_refused(make, message, function):
    with pytest.raises(ValueError, match=message):
        function(make())


def test_remedy_for_lora_merges_it(tmp_path, rng):
    lora, plain = dense(), dense()
    body = lora.get_layer("body")
    body.enable_lora(2)
    body.lora_kernel_b.assign(rng.normal(size=(2, 8)))
    x = rng.normal(size=(4, 16)).astype("float32")

    lora.save_weights(tmp_path / "merged.weights.h5")
    plain.load_weights(tmp_path / "merged.weights.h5")

    # x @ (kernel + a @ b) in float32, summed in another order.
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), lora.predict(x, verbose=0), rtol=1e-4
    )
    codeq_keras.quantize_model(plain)


@pytest.mark.parametrize("path", ["model.keras", pathlib.Path("a", "b.h5")])
@pytest.mark.parametrize(
    "function",
    [
        codeq_keras.quantize_model,
        codeq_keras.quantize_apply,
        codeq_keras.quantize_annotate_model,
        codeq_keras.strip_quantizers,
        codeq_keras.quantized_weights,
        codeq_keras.report,
        lambda path: tflite_export.export(path, "model.tflite"),
    ],
)
def test_path_in_place_of_a_model_is_refused(function, path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("The export needs TensorFlow.")
    with pytest.raises(ValueError, match=r"the path .* Load it with"):
        function(path)


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        (4, r"CoDeQConfig\(bit_width=4\)"),
        ("learned", r"CoDeQConfig\(bit_width='learned'\)"),
        (CoDeQConfig, "with parentheses"),
        ({"bit_width": 4}, "fields by name"),
    ],
)
def test_remedy_for_what_stands_in_place_of_a_config(config, remedy):
    model = dense()

    with pytest.raises(ValueError, match=remedy):
        codeq_keras.quantize_model(model, config)
    with pytest.raises(ValueError, match=remedy):
        codeq_keras.quantize_model(model, overrides={"body": config})
    with pytest.raises(ValueError, match=remedy):
        codeq_keras.quantize_annotate_layer(layers.Dense(3), config)
