"""The networks that the benchmarks train. Plain Keras, no quantization.

All take and return float32, end in logits, and are not compiled. `classes` is
the number of logits; `alpha` a factor on the channels of every layer; a
`stem_strides` of 2 makes all feature maps a quarter of the size, for quick
experiments. The layers with a 1x1 kernel in the MobileNets have "pointwise" in
their names.

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

import keras
from keras import layers
from network_blocks import (
    classifier,
    conv,
    depthwise,
    divisible,
    inverted_residual,
    norm,
    pointwise,
    relu6,
    residual_block,
    residual_stages,
    strided_conv,
)

Shape = tuple[int, int, int]
CIFAR = (32, 32, 3)

# Output channels, blocks and stride of each stage of MobileNetV1.
_V1_STAGES = ((64, 1, 1), (128, 2, 2), (256, 2, 2), (512, 6, 2), (1024, 2, 2))

# Expansion, output channels, blocks and stride of each stage of MobileNetV2.
_V2_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
    (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


def resnet8(
    *, input_shape: Shape = CIFAR, classes: int = 10, stem_strides: int = 1
) -> keras.Model:
    """Returns the image classification network of MLPerf Tiny.

    78,666 parameters and 12.5 million multiply-accumulates at 32x32x3.
    """
    inputs = keras.Input(input_shape)
    x = conv(inputs, 16, 3, strides=stem_strides, name="stem")
    x = layers.ReLU()(norm(x))
    for stage, (filters, strides) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
        name = f"stage_{stage}"
        x = residual_block(x, filters, strides, name=name)
    return classifier(inputs, x, classes, "resnet8")


def resnet20(
    *, input_shape: Shape = CIFAR, classes: int = 10, stem_strides: int = 1
) -> keras.Model:
    """Returns the ResNet-20 for CIFAR-10 that the CoDeQ paper compresses."""
    inputs = keras.Input(input_shape)
    x = conv(inputs, 16, 3, strides=stem_strides, name="stem")
    x = layers.ReLU()(norm(x))
    x = residual_stages(x, (16, 32, 64), blocks=3)
    return classifier(inputs, x, classes, "resnet20")


def resnet18(
    *, input_shape: Shape = (224, 224, 3), classes: int = 1000
) -> keras.Model:
    """Returns the ResNet-18 for ImageNet; 11.7 million parameters."""
    inputs = keras.Input(input_shape)
    x = layers.ReLU()(norm(conv(inputs, 64, 7, strides=2, name="stem")))
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    x = residual_stages(x, (64, 128, 256, 512), blocks=2)
    return classifier(inputs, x, classes, "resnet18")


def ds_cnn(
    *, input_shape: Shape = (49, 10, 1), classes: int = 12, filters: int = 64
) -> keras.Model:
    """Returns the keyword spotting network of MLPerf Tiny.

    24,908 parameters and 2.7 million multiply-accumulates at 49x10x1.
    """
    inputs = keras.Input(input_shape)
    x = conv(inputs, filters, (10, 4), strides=2, name="stem")
    x = layers.Dropout(0.2)(layers.ReLU()(norm(x)))
    for block in range(1, 5):
        x = layers.DepthwiseConv2D(
            3, padding="same", name=f"depthwise_{block}"
        )(x)
        x = layers.ReLU()(norm(x))
        x = conv(x, filters, 1, name=f"pointwise_{block}")
        x = layers.ReLU()(norm(x))
    return classifier(inputs, layers.Dropout(0.4)(x), classes, "ds_cnn")


def fc_autoencoder(*, features: int = 640) -> keras.Model:
    """Returns the anomaly detection network of MLPerf Tiny.

    Its output is a reconstruction of its input; 269,992 parameters.
    """
    inputs = keras.Input((features,))
    x = inputs
    for index, units in enumerate((128,) * 4 + (8,) + (128,) * 4, 1):
        x = layers.ReLU()(norm(layers.Dense(units, name=f"dense_{index}")(x)))
    outputs = layers.Dense(features, name="reconstruction")(x)
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
    x = relu6(strided_conv(inputs, int(32 * alpha), name="stem"))
    block = 0
    for channels, blocks, stage_strides in _V1_STAGES:
        for strides in (stage_strides,) + (1,) * (blocks - 1):
            block += 1
            x = depthwise(x, strides, name=f"depthwise_{block}")
            x = pointwise(x, int(channels * alpha), name=f"pointwise_{block}")
            x = layers.ReLU(6.0)(x)
    return classifier(inputs, x, classes, "mobilenet_v1")


def mobilenet_v2(
    *, alpha: float = 0.5, input_shape: Shape = (96, 96, 3), classes: int = 10
) -> keras.Model:
    """Returns a MobileNetV2 with symmetric padding, see `mobilenet_v1`."""
    inputs = keras.Input(input_shape)
    x = relu6(strided_conv(inputs, divisible(32 * alpha), name="stem"))
    block = 0
    for expansion, channels, blocks, stage_strides in _V2_STAGES:
        for strides in (stage_strides,) + (1,) * (blocks - 1):
            block += 1
            x = inverted_residual(
                x, expansion, divisible(channels * alpha), strides, block
            )
    x = pointwise(x, divisible(1280 * max(alpha, 1)), name="head_pointwise")
    return classifier(inputs, layers.ReLU(6.0)(x), classes, "mobilenet_v2")


def vit(
    *,
    input_shape: Shape = (32, 32, 3),
    classes: int = 10,
    stem_convs: int = 2,
    heads: int = 3,
    depth: int = 4,
) -> keras.Model:
    """Returns a small vision transformer; 87,802 parameters by default.

    Its stem of n convolutions of stride 2 makes patches of 2**n pixels; the
    heads of the attention have 16 features each.
    """
    inputs = keras.Input(input_shape)
    width = 16 * heads
    x = inputs
    for index in range(1, stem_convs + 1):
        filters = width >> (stem_convs - index)
        x = conv(x, filters, 3, strides=2, name=f"stem_{index}")
        x = layers.ReLU()(norm(x))
    x = layers.Reshape((-1, width))(x)
    for block in range(1, depth + 1):
        y = layers.LayerNormalization()(x)
        y = layers.MultiHeadAttention(heads, 16, name=f"attention_{block}")(
            y, y
        )
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(2 * width, "gelu", name=f"expand_{block}")(y)
        y = layers.Dense(width, name=f"project_{block}")(y)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    outputs = layers.Dense(classes, name="classifier")(x)
    return keras.Model(inputs, outputs, name="vit")
