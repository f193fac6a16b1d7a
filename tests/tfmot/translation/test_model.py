"""to_tf_keras: the same outputs, or an error that names the node."""

import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

from codeq_keras import quantize_model
from codeq_keras.tfmot import to_tf_keras
from codeq_keras.tfmot.translation import counterparts

# Float32 sums in another order.
TOLERANCE = 1e-5


def randomize(model, rng):
    for weight in model.weights:
        if weight.dtype != "float32":
            continue
        value = weight.numpy() + 0.02 * rng.normal(size=weight.shape)
        is_scale = "variance" in weight.name or "gamma" in weight.name
        if is_scale:
            value = rng.uniform(0.75, 1.25, weight.shape)
        weight.assign(value)


def assert_same_outputs(model, rng):
    randomize(model, rng)
    values = [
        rng.random((2, *(size or 5 for size in tensor.shape[1:]))).astype(
            "float32"
        )
        for tensor in model.inputs
    ]
    inputs = values if len(values) > 1 else values[0]

    translated = to_tf_keras(model)

    assert isinstance(translated, tf_keras.Model)
    expected = keras.tree.flatten(model(inputs, training=False))
    actual = keras.tree.flatten(translated(inputs, training=False))
    for one, other in zip(actual, expected, strict=True):
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE * scale)
    return translated


def convolutions():
    return keras.Sequential(
        [
            keras.Input((16, 16, 4)),
            layers.SeparableConv2D(4, 3, activation="silu"),
            layers.Conv2DTranspose(4, 3, strides=2),
            layers.UpSampling2D(),
            layers.ZeroPadding2D(1),
            layers.DepthwiseConv2D(3, depth_multiplier=2),
            layers.AveragePooling2D(2),
            layers.GroupNormalization(4),
            layers.PReLU(),
            layers.TimeDistributed(layers.Dense(3)),
            layers.LeakyReLU(0.1),
        ]
    )


def sequences():
    inputs = keras.Input((6, 8))
    x = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    x = layers.LayerNormalization()(x + inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(None, 5))(x)
    return keras.Model(inputs, layers.GRU(3)(x))


def nested_and_shared():
    inputs = keras.Input((8, 8, 3), name="image")
    shared = keras.Sequential(
        [
            layers.Conv2D(3, 3, padding="same", kernel_regularizer="l2"),
            layers.BatchNormalization(),
        ],
        name="block",
    )
    first = shared(layers.Dense(3)(inputs))
    second = shared(layers.Dense(3, activation="hard_sigmoid")(first))
    x = layers.Add()([first, second])
    x = 2.0 - x * 0.5
    x = x + first
    return keras.Model(inputs, {"a": layers.Flatten()(x), "b": first})


def several_inputs():
    left, right = keras.Input((4,), name="l"), keras.Input((6,), name="r")
    x = layers.Concatenate()([layers.Dense(3)(left), layers.Dense(3)(right)])
    return keras.Model([left, right], [x, layers.Dense(1)(x)])


@pytest.mark.parametrize(
    "build",
    [convolutions, sequences, nested_and_shared, several_inputs],
    ids=lambda build: build.__name__,
)
def test_outputs_are_the_same(build, rng):
    assert_same_outputs(build(), rng)


@pytest.mark.parametrize(
    "activation",
    sorted(counterparts.EQUAL_ACTIVATIONS | set(counterparts.ACTIVATIONS)),
)
def test_activation_is_the_same_function(activation, rng):
    model = keras.Sequential(
        [keras.Input((40,)), layers.Activation(activation)]
    )
    translated = to_tf_keras(model)
    x = rng.normal(size=(4, 40)).astype("float32") * 4

    np.testing.assert_allclose(translated(x), model(x), atol=1e-5)


SMALL_FAMILIES = [
    ("MobileNet", 32),
    ("MobileNetV2", 32),
    ("MobileNetV3Small", 32),
    ("EfficientNetB0", 32),
]
LARGE_FAMILIES = [
    ("ConvNeXtTiny", 32),
    ("DenseNet121", 32),
    ("EfficientNetV2B0", 32),
    ("InceptionResNetV2", 75),
    ("InceptionV3", 75),
    ("MobileNetV3Large", 32),
    ("NASNetMobile", 224),
    ("ResNet50", 32),
    ("ResNet50V2", 32),
    ("VGG16", 32),
    ("Xception", 71),
]


@pytest.mark.parametrize(("name", "size"), SMALL_FAMILIES)
def test_application_has_the_same_outputs(name, size, rng):
    build = getattr(keras.applications, name)
    assert_same_outputs(build(weights=None, input_shape=(size, size, 3)), rng)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), LARGE_FAMILIES)
def test_large_application_has_the_same_outputs(name, size, rng):
    build = getattr(keras.applications, name)
    assert_same_outputs(build(weights=None, input_shape=(size, size, 3)), rng)


@pytest.mark.slow
def test_application_has_the_same_features_before_pooling(rng):
    # Class probabilities of an untrained model are close to each other.
    for name in ("MobileNetV2", "EfficientNetV2B0", "ConvNeXtTiny"):
        build = getattr(keras.applications, name)
        model = build(weights=None, include_top=False, input_shape=(32, 32, 3))
        assert_same_outputs(model, rng)


def test_layers_keep_their_names():
    model = nested_and_shared()

    names = [layer.name for layer in to_tf_keras(model).layers]

    assert {"image", "block", "dense", "flatten"} <= {
        name.rstrip("0123456789").rstrip("_") for name in names
    }


def test_operation_is_refused_and_the_node_named():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.ops.relu(inputs))
    node = model.get_config()["layers"][-1]["name"]

    with pytest.raises(ValueError, match=rf"Received: node '{node}', Relu"):
        to_tf_keras(model)


def test_missing_activation_is_refused_and_the_layer_named():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2, activation="celu", name="x")]
    )

    with pytest.raises(ValueError, match="activation 'celu' in layer 'x'"):
        to_tf_keras(model)


def test_lambda_is_refused():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: x, name="x")]
    )

    with pytest.raises(ValueError, match="Received: node 'x', Lambda"):
        to_tf_keras(model)


def test_layer_that_tf_keras_lacks_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.RMSNormalization()])

    with pytest.raises(ValueError, match="RMSNormalization"):
        to_tf_keras(model)


def test_subclassed_model_is_refused():
    class Model(keras.Model):
        def call(self, inputs):
            return inputs

    model = Model()
    model.build((None, 3))

    with pytest.raises(ValueError, match="Expected a sequential or functional"):
        to_tf_keras(model)


def test_quantized_model_is_refused():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])

    with pytest.raises(ValueError, match="Expected a float model"):
        to_tf_keras(quantize_model(model))


def test_model_that_is_not_built_is_refused():
    with pytest.raises(ValueError, match="Expected a built model"):
        to_tf_keras(keras.Sequential([layers.Dense(2)]))


def test_tf_keras_model_is_refused():
    with pytest.raises(ValueError, match=r"Expected a `keras\.Model`"):
        to_tf_keras(tf_keras.Sequential())


def test_custom_layer_is_translated_by_the_class_given(rng):
    class Scale(layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight(name="factor")

        def call(self, inputs):
            return inputs * self.factor

    class TfScale(tf_keras.layers.Layer):
        def build(self, input_shape):
            self.factor = self.add_weight("factor", ())

        def call(self, inputs):
            return inputs * self.factor

    model = keras.Sequential([keras.Input((4,)), Scale(name="scale")])
    randomize(model, rng)
    x = rng.random((2, 4)).astype("float32")

    translated = to_tf_keras(model, custom_layers={"Scale": TfScale})

    np.testing.assert_allclose(translated(x), model(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"custom_layers=.'Scale'"):
        to_tf_keras(model)


def test_argument_that_tf_keras_lacks_is_refused():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Resizing(4, 4, antialias=True, name="x"),
        ]
    )

    with pytest.raises(
        ValueError, match=r"no argument 'antialias'.*in layer 'x'"
    ):
        to_tf_keras(model)
