"""The parts that the networks of the benchmarks share."""

from typing import Any

import keras
from keras import layers

_BARE = {"use_bias": False, "kernel_initializer": "he_normal"}


def residual_stages(x: Any, stages: tuple[int, ...], blocks: int) -> Any:
    """Residual blocks; each stage but the first halves the image."""
    for stage, filters in enumerate(stages, 1):
        for block in range(blocks):
            strides = 2 if stage > 1 and block == 0 else 1
            name = f"stage_{stage}_block_{block + 1}"
            x = residual_block(x, filters, strides, name=name)
    return x


def residual_block(x: Any, filters: int, strides: int, *, name: str) -> Any:
    """Two 3x3 convolutions and their shortcut."""
    y = conv(x, filters, 3, strides=strides, name=f"{name}_conv_1")
    y = layers.ReLU()(norm(y))
    y = norm(conv(y, filters, 3, name=f"{name}_conv_2"))
    if strides != 1:
        x = conv(x, filters, 1, strides=strides, name=f"{name}_shortcut")
    return layers.ReLU()(layers.Add()([x, y]))


def inverted_residual(
    x: Any, expansion: int, channels: int, strides: int, block: int
) -> Any:
    """Expansion, depthwise convolution and linear projection."""
    y, channels_in = x, x.shape[-1]
    if expansion != 1:
        name = f"expand_pointwise_{block}"
        y = layers.ReLU(6.0)(pointwise(y, expansion * channels_in, name=name))
    y = depthwise(y, strides, name=f"depthwise_{block}")
    y = pointwise(y, channels, name=f"project_pointwise_{block}")
    if strides == 1 and channels == channels_in:
        y = layers.Add()([x, y])
    return y


def strided_conv(x: Any, filters: int, *, name: str) -> Any:
    """A 3x3 convolution of stride 2, padded on all four sides."""
    x = layers.ZeroPadding2D(1)(x)
    return layers.Conv2D(filters, 3, strides=2, name=name, **_BARE)(x)


def depthwise(x: Any, strides: int, *, name: str) -> Any:
    """A 3x3 depthwise convolution, normalised, with ReLU6."""
    if strides != 1:
        x = layers.ZeroPadding2D(1)(x)
    padding = "same" if strides == 1 else "valid"
    options = {"use_bias": False, "depthwise_initializer": "he_normal"}
    layer = layers.DepthwiseConv2D(3, strides, padding, name=name, **options)
    return relu6(layer(x))


def pointwise(x: Any, filters: int, *, name: str) -> Any:
    """A 1x1 convolution, normalised, linear."""
    return norm(layers.Conv2D(filters, 1, name=name, **_BARE)(x))


def conv(
    x: Any, filters: int, size: Any, *, name: str, strides: int = 1
) -> Any:
    """A convolution with bias that keeps the size, divided by the stride."""
    options = {"padding": "same", "kernel_initializer": "he_normal"}
    return layers.Conv2D(filters, size, strides, name=name, **options)(x)


def classifier(inputs: Any, x: Any, classes: int, name: str) -> keras.Model:
    """The network that ends in the mean of the features and logits."""
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(classes, name="classifier")(x)
    return keras.Model(inputs, outputs, name=name)


def norm(x: Any) -> Any:
    """BatchNorm."""
    return layers.BatchNormalization()(x)


def relu6(x: Any) -> Any:
    """BatchNorm and ReLU6."""
    return layers.ReLU(6.0)(norm(x))


def divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that loses at most 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
