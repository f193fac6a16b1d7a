"""Where activations are quantized, on a table of small graphs."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from codeq_keras.activations.graph import ActivationGraph
from codeq_keras.activations.placement import Site


def image_model(body):
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, body(image))


def conv_norm_relu(x, name, *, relu=True):
    x = layers.Conv2D(3, 3, padding="same", name=name)(x)
    x = layers.BatchNormalization(name=f"{name}_norm")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if relu else x


def residual(image):
    x = conv_norm_relu(image, "a")
    y = conv_norm_relu(x, "b", relu=False)
    return layers.ReLU(name="relu")(layers.Add(name="add")([x, y]))


def pre_activation(image):
    """The sum is read twice, so its BatchNorm is no part of a convolution."""
    x = layers.Add(name="sum")([image, image])
    y = layers.BatchNormalization(name="norm")(x)
    y = layers.ReLU(name="relu")(y)
    y = layers.Conv2D(3, 1, name="conv")(y)
    return layers.Add(name="add")([x, y])


def read_twice(image):
    """The convolution itself is an output too, so nothing is fused to it."""
    x = layers.Conv2D(3, 1, name="conv")(image)
    y = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    return layers.Concatenate(name="concat")([x, y])


def moving(image):
    x = layers.ZeroPadding2D(name="pad")(image)
    x = layers.Conv2D(3, 3, activation="relu", name="conv")(x)
    x = layers.MaxPooling2D(name="pool")(x)
    return layers.Dropout(0.5, name="drop")(layers.Flatten(name="flat")(x))


def dropout_between(image):
    x = layers.Conv2D(3, 3, name="conv")(image)
    return layers.ReLU(name="relu")(layers.Dropout(0.5, name="drop")(x))


def unfused(image):
    x = layers.Conv2D(3, 3, activation="elu", name="elu")(image)
    return layers.LeakyReLU(name="leaky")(layers.Conv2D(3, 1, name="conv")(x))


def relu_behind_pooling(image):
    x = layers.GlobalAveragePooling2D(name="mean")(image)
    return layers.ReLU(name="relu")(x)


def separable(image):
    x = layers.SeparableConv2D(3, 3, activation="relu6", name="sep")(image)
    return layers.Conv2D(3, 1, name="conv")(x)


def operations(image):
    x = layers.Conv2D(3, 1, name="conv")(image)
    return ops.relu(x + 1.0)


def nested(image):
    """The convolution is in one model, the ReLU behind it in another."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(3, 1, name="conv")], name="body"
    )
    x = layers.ReLU(name="relu")(inner(image, training=False))
    return layers.ReLU(name="last")(inner(x))


def joined(image):
    """Only the concatenation reads them; one of them is moved before."""
    x = layers.Conv2D(3, 1, activation="relu", name="conv")(image)
    y = layers.Conv2D(3, 1, name="other")(image)
    y = layers.MaxPooling2D(3, strides=1, padding="same", name="pool")(y)
    return layers.Concatenate(name="concat")([image, x, y])


def dense_block(image):
    """A pooling that a BatchNorm and a Concatenate read, as in a DenseNet."""
    x = conv_norm_relu(image, "a")
    x = layers.MaxPooling2D(2, name="pool")(x)
    y = layers.BatchNormalization(name="norm")(x)
    return layers.Concatenate(name="concat")([x, y])


def gated(image):
    """The range of a sigmoid is prescribed, whoever reads it."""
    x = layers.Conv2D(3, 1, activation="sigmoid", name="gate")(image)
    y = layers.Multiply(name="multiply")([image, x])
    return layers.Maximum(name="maximum")([y, x])


def joined_twice(image):
    x = layers.Concatenate(name="first")([image, image])
    return layers.Concatenate(name="second")([x, image])


TABLE = {
    residual: ["image", "a_relu", "b_norm", "relu"],
    pre_activation: ["image", "sum", "relu", "conv", "add"],
    read_twice: ["image", "conv", "concat"],
    moving: ["image", "conv"],
    dropout_between: ["image", "relu"],
    unfused: ["image", "elu/linear", "elu", "conv", "leaky"],
    relu_behind_pooling: ["image", "mean", "relu"],
    separable: ["image", "sep/depthwise", "sep", "conv"],
    nested: ["image", "relu", "last"],
    joined: ["image", "concat"],
    dense_block: ["image", "a_relu", "concat"],
    gated: ["image", "gate/linear", "gate", "maximum"],
    joined_twice: ["image", "first", "second"],
}


@pytest.mark.parametrize("body", TABLE, ids=lambda body: body.__name__)
def test_activations_are_quantized_where_tflite_does(body):
    graph = ActivationGraph(image_model(body))

    assert list(graph.quantizers) == TABLE[body]


def test_operations_of_keras_ops_are_seen():
    graph = ActivationGraph(image_model(operations))

    # Operations have no names of one's own; the sum and the ReLU are one.
    names = list(graph.quantizers)
    assert names[:2] == ["image", "conv"]
    assert len(names) == 3


def test_range_of_softmax_sigmoid_and_tanh_is_the_one_tflite_prescribes():
    x = keras.Input((4,), name="x")
    outputs = [
        layers.Dense(3, activation=name, name=name)(x)
        for name in ("softmax", "sigmoid", "tanh")
    ]
    graph = ActivationGraph(keras.Model(x, outputs))

    ranges = {p: q.range for p, q in graph.quantizers.items() if q.fixed_range}
    assert {p: (r.scale, r.zero_point) for p, r in ranges.items()} == {
        "softmax": (1 / 256, -128),
        "sigmoid": (1 / 256, -128),
        "tanh": (1 / 128, 0),
    }
    assert "softmax/linear" in graph.quantizers


def test_average_pooling_rounds_to_the_scale_of_its_input():
    def body(image):
        return layers.AveragePooling2D(2, name="mean")(image)

    graph = ActivationGraph(image_model(body))

    source, pooled = graph.placement.sites
    assert isinstance(pooled, Site)
    assert (source.shared, pooled.shared) == (None, source.tensor.index)
    assert list(graph.quantizers) == ["image"]


def dropped(image):
    x = layers.MaxPooling2D(2, name="pool")(conv_norm_relu(image, "a"))
    x = layers.Dropout(0.5, name="drop")(x)
    y = layers.BatchNormalization(name="norm")(x)
    return layers.Concatenate(name="concat")([x, y])


def dropped_on_one_side(image):
    x = layers.MaxPooling2D(2, name="pool")(conv_norm_relu(image, "a"))
    y = layers.BatchNormalization(name="norm")(x)
    x = layers.Dropout(0.5, name="drop")(x)
    return layers.Concatenate(name="concat")([x, y])


def moved_twice(image):
    x = layers.MaxPooling2D(2, name="pool")(conv_norm_relu(image, "a"))
    y = layers.BatchNormalization(name="norm")(x)
    x, y = (layers.Flatten()(value) for value in (x, y))
    return layers.Concatenate(name="concat")([x, y])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (dense_block, "pool"),
        (dropped, "drop"),
        (dropped_on_one_side, "pool"),
        (moved_twice, "pool"),
    ],
)
def test_what_was_moved_is_rounded_as_a_concatenation_among_its_readers(
    body, path
):
    # The converter rounds it once, for all of them.
    sites = ActivationGraph(image_model(body)).placement.sites

    by_path = {site.path: site for site in sites}
    assert by_path[path].shared == by_path["concat"].tensor.index
    assert not by_path[path].is_average
    assert len(by_path) == 4


@pytest.mark.parametrize("reader", ["average", "output"])
def test_what_is_averaged_or_an_output_keeps_its_range(reader):
    image = keras.Input((8, 8, 3), name="image")
    x = layers.MaxPooling2D(2, name="pool")(conv_norm_relu(image, "a"))
    y = layers.BatchNormalization(name="norm")(x)
    other = layers.AveragePooling2D(2)(x) if reader == "average" else x
    outputs = [layers.Concatenate(name="concat")([x, y]), other]

    sites = ActivationGraph(keras.Model(image, outputs)).placement.sites

    assert "pool" not in {site.path for site in sites}


def test_range_grows_with_a_tensor_that_is_rounded_to_it_before():
    graph = ActivationGraph(image_model(moved_input))
    x = np.ones((2, 8, 8, 3), "float32")

    graph(x, training=True)
    for _ in range(200):
        graph(10 * x, training=True)

    # A mean of the first batches, then a moving average.
    ranges = {path: q.range.high for path, q in graph.quantizers.items()}
    assert ranges["image"] == pytest.approx(10, rel=0.1)
    assert ranges["concat"] == pytest.approx(10, rel=0.1)
    assert {float(q.num_updates) for q in graph.quantizers.values()} == {201.0}


def moved_input(image):
    x = layers.MaxPooling2D(2, name="pool")(image)
    y = layers.Rescaling(0.1, name="scaled")(x)
    return layers.Concatenate(name="concat")([x, y])


def test_average_of_one_value_has_the_range_of_its_input():
    # The converter drops it, so that the file rounds once and not twice.
    x = keras.Input((4, 4, 2), name="x")
    y = layers.AveragePooling2D(4, name="pool")(x)
    y = layers.GlobalAveragePooling2D(name="one")(y)
    y = ops.mean(ops.expand_dims(y, 1), axis=1)
    y = layers.Dense(3, name="head")(y)

    sites = ActivationGraph(keras.Model(x, y)).placement.sites

    assert [site.path for site in sites] == ["x", "pool", "head"]


def test_average_with_a_mask_has_a_range_of_its_own():
    x = keras.Input((1, 2), name="x")
    mask = keras.Input((1,), dtype="bool", name="mask")
    y = layers.GlobalAveragePooling1D(name="pool")(x, mask=mask)

    sites = ActivationGraph(keras.Model([x, mask], y)).placement.sites

    assert [site.path for site in sites] == ["x", "pool"]


def test_integer_inputs_are_not_quantized():
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(10, 4, name="embedding")(tokens)
    graph = ActivationGraph(
        keras.Model(tokens, layers.Dense(2, name="head")(x))
    )

    assert list(graph.quantizers) == ["embedding", "head"]


def test_layers_with_activations_inside_are_named():
    x = keras.Input((4, 8), name="x")
    y = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    y = layers.LayerNormalization(name="norm")(y)
    y = layers.Dense(3, activation="selu", name="selu")(y)
    graph = ActivationGraph(keras.Model(x, layers.LSTM(3, name="lstm")(y)))

    assert graph.placement.inner == ("attention", "norm", "selu", "lstm")
    assert list(graph.quantizers) == [
        "x", "attention", "norm", "selu/linear", "selu", "lstm"
    ]  # fmt: skip


def test_calls_of_a_shared_layer_have_ranges_of_their_own():
    dense = layers.Dense(4, name="dense")
    x = keras.Input((4,), name="x")
    graph = ActivationGraph(keras.Model(x, dense(dense(x))))

    assert list(graph.quantizers) == ["x", "dense", "dense_1"]
