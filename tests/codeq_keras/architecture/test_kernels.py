"""Which kernels are found, where, and how many MACs they cost."""

import keras
import numpy as np
import pytest
from keras import layers
from support.custom_model import SubclassedModel

from codeq_keras.architecture.kernels import find_kernels


def kernels_of(layer, input_shape, dtype="float32"):
    inputs = keras.Input(input_shape, dtype=dtype)
    return find_kernels(keras.Model(inputs, layer(inputs)))


# Expected: (variable, MACs, output axes) of every kernel of the layer.
LAYERS = {
    "Dense": (
        lambda: layers.Dense(4),
        (5,),
        [("kernel", 5 * 4, (1,))],
    ),
    "Dense on a sequence": (
        lambda: layers.Dense(4),
        (7, 5),
        [("kernel", 7 * 5 * 4, (1,))],
    ),
    "EinsumDense": (
        lambda: layers.EinsumDense("abc,cde->abde", (None, 2, 4)),
        (7, 5),
        [("kernel", 7 * 5 * 2 * 4, (1, 2))],
    ),
    "EinsumDense with ellipsis": (
        lambda: layers.EinsumDense("...x,xy->...y", 4),
        (7, 6, 5),
        [("kernel", 7 * 6 * 5 * 4, (1,))],
    ),
    "Conv1D causal": (
        lambda: layers.Conv1D(4, 3, padding="causal"),
        (8, 5),
        [("kernel", 3 * 5 * 4 * 8, (2,))],
    ),
    "Conv2D": (
        lambda: layers.Conv2D(4, 3),
        (8, 8, 5),
        [("kernel", 3 * 3 * 5 * 4 * (6 * 6), (3,))],
    ),
    "Conv2D strided": (
        lambda: layers.Conv2D(4, 3, strides=2, padding="same"),
        (8, 8, 5),
        [("kernel", 3 * 3 * 5 * 4 * (4 * 4), (3,))],
    ),
    "Conv2D grouped": (
        lambda: layers.Conv2D(4, 3, groups=2),
        (8, 8, 6),
        [("kernel", 3 * 3 * 3 * 4 * (6 * 6), (3,))],
    ),
    "Conv3D": (
        lambda: layers.Conv3D(4, 2),
        (4, 4, 4, 3),
        [("kernel", 2**3 * 3 * 4 * 3**3, (4,))],
    ),
    "DepthwiseConv2D": (
        lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        (8, 8, 5),
        [("kernel", 3 * 3 * 5 * 2 * (6 * 6), (2, 3))],
    ),
    "DepthwiseConv1D": (
        lambda: layers.DepthwiseConv1D(3),
        (8, 5),
        [("kernel", 3 * 5 * 6, (1, 2))],
    ),
    "SeparableConv2D": (
        lambda: layers.SeparableConv2D(4, 3),
        (8, 8, 5),
        [
            ("depthwise_kernel", 3 * 3 * 5 * (6 * 6), (2, 3)),
            ("pointwise_kernel", 5 * 4 * (6 * 6), (3,)),
        ],
    ),
    "Conv2DTranspose": (
        lambda: layers.Conv2DTranspose(4, 3, strides=2, padding="same"),
        (8, 8, 5),
        [("kernel", 3 * 3 * 5 * 4 * (8 * 8), (2,))],
    ),
    "LSTM": (
        lambda: layers.LSTM(3),
        (7, 5),
        [
            ("kernel", 7 * 5 * 4 * 3, (1,)),
            ("recurrent_kernel", 7 * 3 * 4 * 3, (1,)),
        ],
    ),
    "Bidirectional GRU": (
        lambda: layers.Bidirectional(layers.GRU(3)),
        (7, 5),
        [
            ("kernel", 7 * 5 * 3 * 3, (1,)),
            ("recurrent_kernel", 7 * 3 * 3 * 3, (1,)),
        ]
        * 2,
    ),
    "TimeDistributed": (
        lambda: layers.TimeDistributed(layers.Conv2D(4, 3)),
        (7, 8, 8, 5),
        [("kernel", 7 * 3 * 3 * 5 * 4 * (6 * 6), (3,))],
    ),
    "ConvLSTM": (
        lambda: layers.ConvLSTM2D(3, 3),
        (7, 8, 8, 5),
        [
            ("kernel", 7 * 3 * 3 * 5 * 4 * 3 * (6 * 6), (3,)),
            ("recurrent_kernel", 7 * 3 * 3 * 3 * 4 * 3 * (6 * 6), (3,)),
        ],
    ),
    "Embedding": (
        lambda: layers.Embedding(9, 4),
        (7,),
        [("embeddings", 0, (1,))],
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_kernels_of_layer(name):
    make_layer, input_shape, expected = LAYERS[name]
    dtype = "int32" if name == "Embedding" else "float32"

    found = kernels_of(make_layer(), input_shape, dtype)

    actual = [(k.variable.name, k.num_macs, k.output_axes) for k in found]
    assert actual == expected


def test_attention_projections_are_found():
    inputs = keras.Input((6, 5))
    outputs = layers.MultiHeadAttention(2, 3, name="mha")(inputs, inputs)

    found = find_kernels(keras.Model(inputs, outputs))

    expected = {
        "mha/query/kernel": 6 * 5 * 2 * 3,
        "mha/key/kernel": 6 * 5 * 2 * 3,
        "mha/value/kernel": 6 * 5 * 2 * 3,
        "mha/attention_output/kernel": 6 * 2 * 3 * 5,
    }
    assert {k.path: k.num_macs for k in found} == expected


def test_shared_layer_is_listed_once_with_the_macs_of_both_sizes():
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    inputs = keras.Input((8, 8, 3))
    x = shared(inputs)
    outputs = shared(layers.MaxPooling2D()(x))

    [kernel] = find_kernels(keras.Model(inputs, outputs))

    assert kernel.num_macs == 3 * 3 * 3 * 3 * (8 * 8 + 4 * 4)


def test_nested_model_called_twice_counts_twice_under_unique_paths():
    def tower(name):
        inputs = keras.Input((4,))
        outputs = layers.Dense(4, name="dense")(inputs)
        return keras.Model(inputs, outputs, name=name)

    left, right = tower("left"), tower("right")
    inputs = keras.Input((4,))

    found = find_kernels(keras.Model(inputs, left(right(left(inputs)))))

    assert {k.path: k.num_macs for k in found} == {
        "left/dense/kernel": 2 * 4 * 4,
        "right/dense/kernel": 4 * 4,
    }


def test_unknown_input_size_has_unknown_macs():
    [kernel] = kernels_of(layers.Conv2D(4, 3), (None, None, 3))

    assert kernel.num_macs is None


def test_frozen_layer_is_found():
    layer = layers.Dense(4)
    layer.trainable = False

    [kernel] = kernels_of(layer, (5,))

    assert kernel.num_weights == 5 * 4


def test_paths_of_a_subclassed_model_are_those_of_its_attributes():
    model = SubclassedModel()
    model(np.zeros((1, 8, 8, 3), "float32"))

    paths = [kernel.path for kernel in find_kernels(model)]

    # Not "conv2d_7/kernel": the number differs in every copy.
    assert paths == [
        "conv/kernel",
        "scaled/kernel",
        "heads_0/kernel",
        "heads_1/kernel",
    ]
