"""Small tf_keras models, quantized by TFMOT with CoDeQ."""

import numpy as np
import tf_keras
from tensorflow_model_optimization.quantization.keras import (
    quantize_annotate_model,
    quantize_apply,
)

from codeq_keras import CoDeQConfig
from codeq_keras.tfmot import CoDeQScheme

layers = tf_keras.layers


def sequential(*members, shape=(8, 8, 3)):
    return tf_keras.Sequential([tf_keras.Input(shape), *members])


def every_pattern():
    """A model with each pattern of layers that TFMOT treats specially."""
    inputs = tf_keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, use_bias=False, name="conv_bn")(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.ReLU()(layers.Conv2D(8, 3, padding="same", name="conv_relu")(x))
    first = layers.Conv2D(4, 1, activation="relu", name="branch_a")(x)
    second = layers.Conv2D(4, 1, name="branch_b")(x)
    x = layers.Concatenate()([first, second])
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise_bn")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.ReLU()(layers.DepthwiseConv2D(3, name="depthwise_relu")(x))
    x = layers.SeparableConv2D(12, 3, activation="relu", name="separable")(x)
    x = layers.Flatten()(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(70)(x)))
    x = layers.BatchNormalization()(layers.Dense(16, name="dense_bn")(x))
    x = layers.ReLU()(layers.Dense(8, name="dense_relu")(x))
    outputs = layers.Dense(4, activation="softmax", name="head")(x)
    return tf_keras.Model(inputs, outputs)


def randomize(model, rng):
    """Random BatchNormalization; half of the gammas is negative."""
    for weight in model.weights:
        shape = tuple(weight.shape)
        if "gamma" in weight.name:
            weight.assign(rng.normal(size=shape) + 0.1)
        elif "variance" in weight.name:
            weight.assign(rng.uniform(0.5, 1.5, shape))
        elif "mean" in weight.name or "beta" in weight.name:
            weight.assign(rng.normal(size=shape) * 0.1)
    return model


def quantize(model, config=None, **kwargs):
    scheme = CoDeQScheme(config or CoDeQConfig(), **kwargs)
    return quantize_apply(quantize_annotate_model(model), scheme=scheme)


def images(rng, count=128):
    """Images whose brightest channel is the label."""
    x = rng.random((count, 8, 8, 3)).astype("float32")
    y = rng.integers(0, 3, count)
    x[np.arange(count), :, :, y] += 0.5
    return x, y


def compiled(model):
    model.compile(
        "adam", "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model
