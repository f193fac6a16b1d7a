"""Layers keep the state that they change in a call, or are refused by name."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import codeq_keras

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"


class Noise(layers.Layer):
    """Draws from Keras's global seed, which no model lists."""

    def call(self, inputs):
        return inputs + 0.1 * keras.random.normal(ops.shape(inputs))


class Center(layers.Layer):
    """A mean of the batches, through which no gradient shall pass."""

    def build(self, input_shape):
        self.center = self.add_weight(
            input_shape[1:], initializer="zeros", trainable=False, name="center"
        )

    def call(self, inputs, training=None):
        if training:
            mean = ops.mean(inputs, axis=0)
            self.center.assign(0.5 * self.center + 0.5 * mean)
        return inputs - self.center


class Codebook(Center):
    """A moving average under the name of a kernel."""

    def build(self, input_shape):
        self.center = self.add_weight(
            (1, input_shape[-1]), trainable=False, name="embeddings"
        )


class Metered(layers.Layer):
    """A metric of its own, which `fit` logs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.meter = keras.metrics.Mean(name="meter")

    def call(self, inputs):
        self.meter.update_state(inputs)
        return inputs

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


class Clipped(layers.Layer):
    """Clips its weights in the call, as some critics do."""

    def build(self, input_shape):
        shape = (input_shape[-1], 4)
        self.kernel = self.add_weight(shape, name="kernel")

    def call(self, inputs):
        self.kernel.assign(ops.clip(self.kernel, -0.1, 0.1))
        return inputs @ self.kernel


class Streamed(layers.Layer):
    """A recurrent layer that goes on where the last batch ended."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.rnn = layers.GRU(4, stateful=True)

    def build(self, input_shape):
        self.rnn.build((input_shape[0], 1, input_shape[1]))

    def call(self, inputs):
        return self.rnn(inputs[:, None])


def model_with(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input(batch_shape=(16, 6)),
            layers.Dense(5),
            layer(),
            layers.Dense(3),
        ]
    )


KEPT = {
    "global seed": Noise,
    "own seed": lambda: layers.Dropout(0.5),
    "statistics": layers.BatchNormalization,
    "moving average": Center,
    "codebook": lambda: Codebook(name="codebook"),
    "metric": Metered,
    "recurrent state": Streamed,
}
# Keras itself refuses these layers there, or loses their state in a step.
ONLY_TENSORFLOW = {"global seed", "metric", "recurrent state"}


@pytest.mark.parametrize(
    "layer", [n for n in KEPT if IS_TENSORFLOW or n not in ONLY_TENSORFLOW]
)
def test_without_quantizers_state_moves_as_in_the_plain_model(layer, rng):
    plain = model_with(KEPT[layer])
    off = codeq_keras.quantize_model(plain, overrides={"": None})
    x = rng.normal(size=(32, 6)).astype("float32")
    results = []

    for model in (plain, off):
        keras.utils.set_random_seed(1)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        history = model.fit(
            x, x[:, :3], epochs=3, batch_size=16, shuffle=False, verbose=0
        ).history
        outputs = [model.predict(x, batch_size=16, verbose=0) for _ in "12"]
        results.append((history, outputs))

    (expected, outputs), (history, own_outputs) = results
    assert history == expected
    np.testing.assert_array_equal(own_outputs, outputs)


@pytest.mark.skipif(not IS_TENSORFLOW, reason="Keras cannot call it there.")
def test_metric_of_a_layer_is_kept_outside_of_the_step(rng):
    qmodel = codeq_keras.quantize_model(model_with(Metered))
    x = rng.normal(size=(16, 6)).astype("float32")

    qmodel(x)

    [meter] = [m for m in qmodel.metrics if m.name == "meter"]
    assert float(meter.count) == 16


ASSIGNING = {
    "clipped": (Clipped, {}, "no trainable variable"),
    "clipped, float": (Clipped, {"overrides": {"": None}}, "no trainable"),
    "clipped, 8 bits": (Clipped, {"activation_bit_width": 8}, "no trainable"),
    "spectral": (
        lambda: layers.SpectralNormalization(layers.Dense(4)),
        {},
        "no trainable variable",
    ),
    "codebook": (Codebook, {}, "no quantized variable"),
}


@pytest.mark.parametrize(
    ("layer", "arguments", "message"), ASSIGNING.values(), ids=ASSIGNING
)
def test_layer_that_assigns_a_weight_is_refused_before_the_training(
    layer, arguments, message, rng
):
    qmodel = codeq_keras.quantize_model(model_with(layer), **arguments)
    x = rng.normal(size=(16, 6)).astype("float32")
    before = [np.array(v) for v in qmodel.latent_model.variables]
    qmodel.compile("adam", "mse")

    with pytest.raises(ValueError, match=message):
        qmodel.fit(x, x[:, :3], batch_size=16, verbose=0)

    if IS_TENSORFLOW:  # JAX frees the variables of a step that failed.
        after = [np.array(v) for v in qmodel.latent_model.variables]
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(new, old)


def test_refusal_names_the_path_that_an_override_takes(rng):
    model = model_with(lambda: Codebook(name="codebook"))
    x = rng.normal(size=(16, 6)).astype("float32")

    with pytest.raises(ValueError, match=r"\{'codebook/embeddings'"):
        codeq_keras.quantize_model(model)(x, training=True)

    codeq_keras.quantize_model(model, overrides={"codebook/embeddings": None})(
        x, training=True
    )


def test_frozen_layer_that_is_left_in_float_may_assign_its_weight(rng):
    model = model_with(Clipped)
    model.layers[1].trainable = False
    qmodel = codeq_keras.quantize_model(
        model, overrides={model.layers[1].name: None}
    )
    x = rng.normal(size=(16, 6)).astype("float32")

    qmodel(x, training=True)

    assert np.abs(np.array(qmodel.layers[1].kernel)).max() <= 0.1
