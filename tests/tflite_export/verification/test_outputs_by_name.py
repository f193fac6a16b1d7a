"""Outputs are matched by name, whatever their order and structure."""

import keras
import numpy as np
import pytest
from keras import layers

import codeq_keras
import tflite_export
from tflite_export.conversion.graphs import named_outputs
from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.runtime.interpreter import predict

NUM_SAMPLES = 16


def _heads(x, units):
    """A head for each name, each with another bias: a wrong match shows."""
    return {
        name: layers.Dense(
            size, bias_initializer=keras.initializers.Constant(3.0 * index)
        )(x)
        for index, (name, size) in enumerate(units.items())
    }


def _numbered(x):
    return _heads(x, {"p8": 4, "p16": 4, "p32": 4})


def _of_other_shapes(x):
    return _heads(x, {"scale_2": 3, "scale_10": 5})


def _eleven(x):
    return list(_heads(x, {str(i): 4 for i in range(11)}).values())


def _nested(x):
    heads = _heads(x, {"a": 4, "b": 4, "c": 3})
    return {"n10": heads["a"], "n9": {"b": heads["b"], "list": [heads["c"]]}}


def _twice(x):
    return [x, layers.Dense(3)(x), x]


def _dropped(x):
    return [layers.Dense(3)(x), x, layers.Dropout(0.2)(x)]


def _twice_by_name(x):
    return {"embedding": x, "f10": layers.Dense(3)(x), "f9": x}


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize(
    "outputs",
    [_numbered, _of_other_shapes, _eleven, _nested, _twice, _dropped,
     _twice_by_name],
)  # fmt: skip
def test_each_output_is_the_model_s_of_that_name(outputs, bits, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), name="x")
    hidden = layers.Dense(16, activation="relu")(inputs)
    _require_equal(keras.Model(inputs, outputs(hidden)), bits, tmp_path)


@pytest.mark.parametrize("bits", [None, 8])
def test_an_input_may_be_an_output(bits, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,), name="x")
    outputs = {"x10": inputs, "x9": layers.Dense(3)(inputs)}
    _require_equal(keras.Model(inputs, outputs), bits, tmp_path)


def _require_equal(model, bits, folder):
    qmodel = codeq_keras.quantize_model(model, activation_bit_width=bits)
    x = np.random.default_rng(0).normal(size=(NUM_SAMPLES, 8))
    x = x.astype("float32")
    qmodel(x, training=True)

    result = tflite_export.export(
        qmodel, folder / "model.tflite", representative_dataset=x
    )

    # A step of rounding in each of two layers, half of a step each.
    assert result.verification.max_output_lsb <= 3
    data = result.path.read_bytes()
    scales = {n: t.scales[0] for n, t in Flatbuffer(data).outputs().items()}
    expected = named_outputs(qmodel(x))
    actual = predict(data, [x], ["x"])
    assert actual.keys() == expected.keys()
    for name, values in actual.items():
        np.testing.assert_allclose(
            values, expected[name], rtol=0, atol=3 * scales[name]
        )
