"""The networks that the benchmarks train. Plain Keras, no quantization.

All take and return float32, end in logits, and are not compiled. `classes` is
the number of logits; `alpha` a factor on the channels of every layer; `widths`
the channels themselves, which `scaled` makes fewer; a `stem_strides` of 2 makes
all feature maps a quarter of the size, for quick experiments. The layers with a
1x1 kernel in the MobileNets have "pointwise" in their names.

References:

- [MLPerf Tiny, 2021](https://arxiv.org/abs/2106.07597): `resnet8`, `ds_cnn`,
  `fc_autoencoder`, `mobilenet_v1`. Differs from it in: logits instead of
  probabilities, no weight decay.
- [Deep Residual Learning, 2015](https://arxiv.org/abs/1512.03385), section 4.2
  and table 1: `resnet20`, as in [CoDeQ, 2025](https://arxiv.org/abs/2512.12981),
  and `resnet18`. Differs from it in: shortcuts that change the shape are 1x1
  convolutions (option B) without BatchNorm; biases.
- [MobileNets, 2017](https://arxiv.org/abs/1704.04861), table 1. Differs from it
  in: ReLU6, as in the published weights.
- [MobileNetV2, 2018](https://arxiv.org/abs/1801.04381), table 2.
- [An Image is Worth 16x16 Words, 2020](https://arxiv.org/abs/2010.11929) and
  [Early Convolutions Help Transformers See Better, 2021](
  https://arxiv.org/abs/2106.14881): `vit`. Differs from them in: no position
  embedding, since the convolutions' zero padding tells positions; the mean of
  the tokens is classified; width, depth.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

Shape = tuple[int, int, int]

# Output channels and stride of each block of MobileNetV1.
_V1_BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    *((512, 1),) * 5, (1024, 2), (1024, 1),
)  # fmt: skip

# Expansion, output channels, blocks and stride of each stage of MobileNetV2.
_V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip

# Channels of the stem and of each block of `small_mobilenet`.
SMALL_MOBILENET_WIDTHS = (16, 24, 32, 48, 64, 96, 96)
RESNET_WIDTHS = (16, 32, 64)

_BARE = {"use_bias": False, "kernel_initializer": "he_normal"}


def scaled(
    widths: Sequence[int], factor: float, multiple: int = 8
) -> tuple[int, ...]:
    """Returns widths times a factor in the nearest multiples, at least one."""
    parts = (round(width * factor / multiple) for width in widths)
    return tuple(multiple * max(part, 1) for part in parts)


def resnet8(
    *,
    classes: int = 10,
    stem_strides: int = 1,
    input_shape: Shape = (32, 32, 3),
    widths: Sequence[int] = RESNET_WIDTHS,
) -> keras.Model:
    """Returns the image classification network of MLPerf Tiny.

    78,666 parameters and 12.5 million multiply-accumulates at 32x32x3.
    """
    inputs = keras.Input(input_shape)
    return _small_resnet(inputs, "resnet8", 1, classes, stem_strides, widths)


def resnet20(*, classes: int = 10, stem_strides: int = 1) -> keras.Model:
    """Returns the ResNet-20 for CIFAR-10 that the CoDeQ paper compresses."""
    inputs = keras.Input((32, 32, 3))
    return _small_resnet(
        inputs, "resnet20", 3, classes, stem_strides, RESNET_WIDTHS
    )


def _small_resnet(
    inputs: Any,
    name: str,
    blocks: int,
    classes: int,
    stem_strides: int,
    widths: Sequence[int],
) -> keras.Model:
    x = _conv(inputs, widths[0], 3, strides=stem_strides, name="stem")
    x = layers.ReLU()(_norm(x))
    x = _residual_stages(x, widths, blocks)
    return _classifier(inputs, x, classes, name)


def resnet18(*, classes: int = 1000) -> keras.Model:
    """Returns the ResNet-18 for ImageNet; 11.7 million parameters."""
    inputs = keras.Input((224, 224, 3))
    x = layers.ReLU()(_norm(_conv(inputs, 64, 7, strides=2, name="stem")))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = _residual_stages(x, (64, 128, 256, 512), blocks=2)
    return _classifier(inputs, x, classes, "resnet18")


def ds_cnn(*, classes: int = 12, width: int = 64) -> keras.Model:
    """Returns the keyword spotting network of MLPerf Tiny.

    24,908 parameters and 2.7 million multiply-accumulates at 49x10x1.
    """
    inputs = keras.Input((49, 10, 1))
    x = _conv(inputs, width, (10, 4), strides=2, name="stem")
    x = layers.Dropout(0.2)(layers.ReLU()(_norm(x)))
    for block in range(1, 5):
        depthwise = f"depthwise_{block}"
        x = layers.DepthwiseConv2D(3, padding="same", name=depthwise)(x)
        x = layers.ReLU()(_norm(x))
        x = _conv(x, width, 1, name=f"pointwise_{block}")
        x = layers.ReLU()(_norm(x))
    return _classifier(inputs, layers.Dropout(0.4)(x), classes, "ds_cnn")


def fc_autoencoder() -> keras.Model:
    """Returns the anomaly detection network of MLPerf Tiny.

    Its output is a reconstruction of its input; 269,992 parameters.
    """
    inputs = keras.Input((640,))
    x = inputs
    for index, units in enumerate((128,) * 4 + (8,) + (128,) * 4, 1):
        x = layers.ReLU()(_norm(layers.Dense(units, name=f"dense_{index}")(x)))
    outputs = layers.Dense(640, name="reconstruction")(x)
    return keras.Model(inputs, outputs, name="fc_autoencoder")


def mobilenet_v1(
    *, alpha: float = 0.25, input_shape: Shape = (96, 96, 3), classes: int = 2
) -> keras.Model:
    """Returns a MobileNetV1 with symmetric padding.

    The defaults are the visual wake words network of MLPerf Tiny, but for
    the padding and the missing biases: every convolution of stride 2 pads by
    one pixel on each side, as other frameworks do, where Keras's "same" pads
    an even input at the bottom and on the right only. XNNPACK's sparse
    kernels accept the former.
    """
    inputs = keras.Input(input_shape)
    x = _strided_stem(inputs, int(32 * alpha))
    for block, (channels, strides) in enumerate(_V1_BLOCKS, 1):
        x = _depthwise(x, strides, name=f"depthwise_{block}")
        x = _pointwise(x, int(channels * alpha), name=f"pointwise_{block}")
        x = layers.ReLU(6.0)(x)
    return _classifier(inputs, x, classes, "mobilenet_v1")


def mobilenet_v2(
    *, alpha: float = 0.5, input_shape: Shape = (96, 96, 3), classes: int = 10
) -> keras.Model:
    """Returns a MobileNetV2 with symmetric padding, see `mobilenet_v1`."""
    inputs = keras.Input(input_shape)
    x = _strided_stem(inputs, _divisible(32 * alpha))
    block = 0
    for expansion, channels, blocks, stage_strides in _V2_STAGES:
        for strides in (stage_strides,) + (1,) * (blocks - 1):
            block += 1
            width = _divisible(channels * alpha)
            x = _inverted_residual(x, expansion, width, strides, block)
    x = _pointwise(x, _divisible(1280 * max(alpha, 1)), name="head_pointwise")
    return _classifier(inputs, layers.ReLU(6.0)(x), classes, "mobilenet_v2")


def small_mobilenet(
    *,
    classes: int = 10,
    input_shape: Shape = (28, 28, 1),
    widths: Sequence[int] = SMALL_MOBILENET_WIDTHS,
) -> keras.Model:
    """Returns a MobileNetV1 of six blocks, as for small images.

    24,744 weights in kernels and 0.6 million multiply-accumulates.
    """
    inputs = keras.Input(input_shape)
    x = _strided_stem(inputs, widths[0])
    for block, channels in enumerate(widths[1:], 1):
        strides = 2 if block in (2, 4) else 1
        x = _depthwise(x, strides, name=f"depthwise_{block}")
        x = _pointwise(x, channels, name=f"pointwise_{block}")
        x = layers.ReLU(6.0)(x)
    return _classifier(inputs, x, classes, "small_mobilenet")


def vit(*, classes: int = 10, stem_convs: int = 2) -> keras.Model:
    """Returns a small vision transformer; 87,802 parameters by default.

    Its stem of n convolutions of stride 2 makes patches of 2**n pixels.
    """
    x = inputs = keras.Input((32, 32, 3))
    heads, head_size, depth = 3, 16, 4
    width = heads * head_size
    for index in range(1, stem_convs + 1):
        filters = width >> (stem_convs - index)
        x = _conv(x, filters, 3, strides=2, name=f"stem_{index}")
        x = layers.ReLU()(_norm(x))
    x = layers.Reshape((-1, width))(x)
    for block in range(1, depth + 1):
        y = layers.LayerNormalization()(x)
        attention = f"attention_{block}"
        y = layers.MultiHeadAttention(heads, head_size, name=attention)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(2 * width, "gelu", name=f"expand_{block}")(y)
        y = layers.Dense(width, name=f"project_{block}")(y)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    outputs = layers.Dense(classes, name="classifier")(x)
    return keras.Model(inputs, outputs, name="vit")


def _residual_stages(x: Any, stages: Sequence[int], blocks: int) -> Any:
    """Residual blocks; each stage but the first halves the image."""
    for stage, filters in enumerate(stages, 1):
        for block in range(blocks):
            strides = 2 if stage > 1 and block == 0 else 1
            name = f"stage_{stage}_block_{block + 1}"
            x = _residual_block(x, filters, strides, name=name)
    return x


def _residual_block(x: Any, filters: int, strides: int, *, name: str) -> Any:
    """Two 3x3 convolutions and their shortcut."""
    y = _conv(x, filters, 3, strides=strides, name=f"{name}_conv_1")
    y = layers.ReLU()(_norm(y))
    y = _norm(_conv(y, filters, 3, name=f"{name}_conv_2"))
    if strides != 1:
        x = _conv(x, filters, 1, strides=strides, name=f"{name}_shortcut")
    return layers.ReLU()(layers.Add()([x, y]))


def _inverted_residual(
    x: Any, expansion: int, channels: int, strides: int, block: int
) -> Any:
    """Expansion, depthwise convolution and linear projection."""
    y, channels_in = x, x.shape[-1]
    if expansion != 1:
        name = f"expand_pointwise_{block}"
        y = layers.ReLU(6.0)(_pointwise(y, expansion * channels_in, name=name))
    y = _depthwise(y, strides, name=f"depthwise_{block}")
    y = _pointwise(y, channels, name=f"project_pointwise_{block}")
    if strides == 1 and channels == channels_in:
        y = layers.Add()([x, y])
    return y


def _strided_stem(x: Any, filters: int) -> Any:
    """A 3x3 convolution of stride 2, padded on all four sides, with ReLU6."""
    x = layers.ZeroPadding2D(1)(x)
    return _relu6(layers.Conv2D(filters, 3, strides=2, name="stem", **_BARE)(x))


def _depthwise(x: Any, strides: int, *, name: str) -> Any:
    """A 3x3 depthwise convolution, normalised, with ReLU6."""
    if strides != 1:
        x = layers.ZeroPadding2D(1)(x)
    padding = "same" if strides == 1 else "valid"
    options = {"use_bias": False, "depthwise_initializer": "he_normal"}
    layer = layers.DepthwiseConv2D(3, strides, padding, name=name, **options)
    return _relu6(layer(x))


def _pointwise(x: Any, filters: int, *, name: str) -> Any:
    """A 1x1 convolution, normalised, linear."""
    return _norm(layers.Conv2D(filters, 1, name=name, **_BARE)(x))


def _conv(
    x: Any, filters: int, size: Any, *, name: str, strides: int = 1
) -> Any:
    """A convolution with bias that keeps the size, divided by the stride."""
    options = {"padding": "same", "kernel_initializer": "he_normal"}
    return layers.Conv2D(filters, size, strides, name=name, **options)(x)


def _classifier(inputs: Any, x: Any, classes: int, name: str) -> keras.Model:
    """The network that ends in the mean of the features and logits."""
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(classes, name="classifier")(x)
    return keras.Model(inputs, outputs, name=name)


def _norm(x: Any) -> Any:
    """BatchNorm."""
    return layers.BatchNormalization()(x)


def _relu6(x: Any) -> Any:
    """BatchNorm and ReLU6."""
    return layers.ReLU(6.0)(_norm(x))


def _divisible(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that loses at most 10 %."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
