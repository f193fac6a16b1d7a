"""The rows of the table of architectures, the models, and its columns."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import networks
import numpy as np
from keras import layers
from support.custom_model import ScaledDense, SubclassedModel, TokenAndPosition

COLUMNS = {
    "identity": "quantizers off: outputs and state bit-identical",
    "fit": "two steps move kernels, logits, BatchNorm statistics",
    "keras_file": "`.keras` round trip: outputs and codes identical",
    "strip": "plain model, same outputs",
    "export": "`export` returns",
    "codes": "tensors whose codes in the file are the trained ones",
    "integer": "operators left in float",
    "litert": "LiteRT against Keras: max and 99 % LSB, top-1 agreement",
    "vela": "operators on the Ethos-U55's NPU",
    "parity": "convolutional networks with trained ranges: outputs within one "
    "step of Keras; top-1 agreement where the best two are further apart; "
    "below 99 %, the layer that is furthest from Keras by itself, given what "
    "the file computed before it",
    "channels": "convolutional networks with trained ranges, without half of "
    "the channels of every class that may lose some, in multiples of 8: "
    "outputs in Keras, and of the file on 200 random inputs, identical to "
    "those with zeros in their place; multiply-accumulates left, the same in "
    "the report and the file; classes that lost channels",
    "jax": "the first four columns on Keras's JAX backend",
}
# Those of a process of its own, with that backend.
JAX_COLUMNS = ("identity", "fit", "keras_file", "strip")
CLASSES = 10
VOCABULARY = 50


class Row(NamedTuple):
    """One model of the table.

    `is_convolutional` rows must run on an NPU completely; `is_large` ones take
    minutes and stay out of `make test`; `known` has the reason why a column
    cannot be green, by column.
    """

    build: Callable[[], keras.Model]
    is_convolutional: bool = False
    is_large: bool = False
    known: dict[str, str] = {}  # noqa: RUF012


def packed(arrays):
    """One array for each input, as `fit` and a call take them."""
    return arrays[0] if len(arrays) == 1 else arrays


def outputs_of(model, inputs, **kwargs):
    """The outputs as a flat list of arrays, called in Keras's structure."""
    outputs = model(packed(inputs), **kwargs)
    return [np.asarray(o) for o in keras.tree.flatten(outputs)]


def samples(
    model: keras.Model, rng: np.random.Generator, count: int
) -> list[np.ndarray]:
    """Random inputs, one array for each input of the model.

    Each has its own mean in every channel: pooled over pure noise, all would
    be the same to the last layers.
    """
    arrays = []
    for tensor in model.inputs:
        shape = (count, *tensor.shape[1:])
        if tensor.dtype == "int32":
            arrays.append(rng.integers(0, VOCABULARY, shape).astype("int32"))
            continue
        means = rng.normal(size=(count, *(1 for _ in shape[1:-1]), shape[-1]))
        values = means + 0.5 * rng.normal(size=shape)
        arrays.append(values.astype("float32"))
    return arrays


def _unet():
    def block(x, filters):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        return layers.ReLU()(layers.BatchNormalization()(x))

    inputs = keras.Input((32, 32, 3))
    skips, x = [], inputs
    for filters in (8, 16):
        x = block(x, filters)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, 32)
    for filters, skip in zip((16, 8), reversed(skips), strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = layers.BatchNormalization()(x)
        x = block(layers.Concatenate()([layers.ReLU()(x), skip]), filters)
    return keras.Model(inputs, layers.Conv2D(4, 1)(x))


def _audio():
    inputs = keras.Input((128, 4))
    x = inputs
    for filters in (16, 32):
        x = layers.Conv1D(filters, 5, strides=2, padding="same")(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.SeparableConv1D(filters, 3, padding="same")(x)
        x = layers.MaxPooling1D()(layers.ReLU()(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _encoder_block(x, width):
    attention = layers.MultiHeadAttention(2, width // 2)(x, x)
    x = layers.LayerNormalization()(layers.Add()([x, attention]))
    hidden = layers.Dense(2 * width, activation="gelu")(x)
    hidden = layers.Dense(width)(layers.Dropout(0.1)(hidden))
    return layers.LayerNormalization()(layers.Add()([x, hidden]))


def _transformer():
    inputs = keras.Input((16, 12))
    x = layers.Dense(16)(inputs)
    for _ in range(2):
        x = _encoder_block(x, 16)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _text_transformer():
    tokens = keras.Input((12,), dtype="int32")
    x = _encoder_block(TokenAndPosition(VOCABULARY, 12, 16)(tokens), 16)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def _embedding():
    tokens = keras.Input((12,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(
        layers.Embedding(VOCABULARY, 16)(tokens)
    )
    x = layers.Dense(16, activation="relu")(x)
    return keras.Model(tokens, layers.Dense(CLASSES)(x))


def _recurrent(*members):
    def build():
        inputs = keras.Input((8, 6))
        x = inputs
        for member in members:
            x = member()(x)
        return keras.Model(inputs, layers.Dense(CLASSES)(x))

    return build


def _two_by_two():
    image = keras.Input((16, 16, 3), name="image")
    meta = keras.Input((5,), name="meta")
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(x)
    y = layers.Dense(8, activation="relu")(meta)
    x = layers.Concatenate()([x, y])
    classes = layers.Dense(CLASSES, name="classes")(x)
    box = layers.Dense(4, activation="sigmoid", name="box")(x)
    return keras.Model([image, meta], [classes, box])


def _nested():
    inner = keras.Input((None, None, 8))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False)(inner)
    y = layers.ReLU()(layers.BatchNormalization()(y))
    shared = keras.Model(inner, y, name="shared")
    head = keras.Sequential(
        [
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(),
            layers.Dense(CLASSES),
        ],
        name="head",
    )
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same")(inputs)
    x = layers.MaxPooling2D()(shared(x))
    return keras.Model(inputs, head(shared(x)))


def _shared_layers():
    conv = layers.Conv2D(6, 3, padding="same", name="shared")
    dense = layers.Dense(6, name="shared_dense")
    inputs = keras.Input((8, 8, 6))
    x = layers.ReLU()(layers.BatchNormalization()(conv(inputs)))
    x = layers.ReLU()(conv(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.ReLU()(dense(x))
    return keras.Model(inputs, layers.Dense(CLASSES)(dense(x)))


def _subclassed():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, SubclassedModel()(inputs))


def _custom_layer():
    return keras.Sequential(
        [
            keras.Input((12,)),
            layers.Dense(16, activation="relu"),
            ScaledDense(8),
            layers.ReLU(),
            layers.Dense(CLASSES),
        ]
    )


def _transfer_head():
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(inputs)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.2)(layers.BatchNormalization()(x))
    x = layers.Dense(24, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x))


def _application(name, size, known=None, **options):
    def build():
        return getattr(keras.applications, name)(
            weights=None,
            input_shape=(size, size, 3),
            classes=CLASSES,
            classifier_activation=None,
            **options,
        )

    return Row(build, is_convolutional=True, is_large=True, known=known or {})


_NO_GATHER = {
    "vela": "Vela 5.2 has no GATHER, nor the LESS and SELECT with which Keras "
    "wraps negative indices, on the Ethos-U55; they run on the CPU in integers."
}

_SMALL = {
    "resnet8": Row(networks.resnet8, is_convolutional=True),
    "ds_cnn": Row(networks.ds_cnn, is_convolutional=True),
    "fc_autoencoder": Row(networks.fc_autoencoder, is_convolutional=True),
    "mobilenet_v1_vww": Row(
        networks.mobilenet_v1, is_convolutional=True, is_large=True
    ),
    "unet": Row(_unet, is_convolutional=True),
    "audio_conv1d": Row(_audio, is_convolutional=True),
    "transformer": Row(_transformer),
    "text_transformer": Row(_text_transformer, known=_NO_GATHER),
    "embedding": Row(_embedding, known=_NO_GATHER),
    "lstm": Row(_recurrent(lambda: layers.LSTM(8))),
    "gru": Row(_recurrent(lambda: layers.GRU(8))),
    "bidirectional": Row(
        _recurrent(lambda: layers.Bidirectional(layers.LSTM(4)))
    ),
    "time_distributed": Row(
        _recurrent(
            lambda: layers.TimeDistributed(layers.Dense(8, "relu")),
            lambda: layers.GRU(6),
        )
    ),
    "two_inputs_two_outputs": Row(_two_by_two, is_convolutional=True),
    "nested_shared": Row(_nested, is_convolutional=True),
    "shared_layers": Row(_shared_layers, is_convolutional=True),
    "subclassed": Row(_subclassed, is_convolutional=True),
    "custom_layer": Row(_custom_layer, is_convolutional=True),
    "transfer_head": Row(
        _transfer_head,
        is_convolutional=True,
        known={
            "litert": "Each BatchNormalization in front of a Dense is rounded "
            "to 8 bits by itself: folded, the trained integers would be lost. "
            "With trained ranges Keras sees that rounding, see parity."
        },
    ),
}

_APPLICATIONS = {
    "MobileNet": _application("MobileNet", 32, alpha=0.25),
    "MobileNetV2": _application("MobileNetV2", 32, alpha=0.35),
    "MobileNetV3Small": _application("MobileNetV3Small", 32),
    "EfficientNetB0": _application("EfficientNetB0", 32),
    "EfficientNetV2B0": _application("EfficientNetV2B0", 32),
    "ResNet50": _application("ResNet50", 32),
    "ResNet50V2": _application("ResNet50V2", 32),
    "DenseNet121": _application("DenseNet121", 32),
    "Xception": _application("Xception", 71),
    "InceptionV3": _application("InceptionV3", 75),
    "VGG16": _application("VGG16", 32),
    "ConvNeXtTiny": _application("ConvNeXtTiny", 32),
    "InceptionResNetV2": _application("InceptionResNetV2", 75),
    "NASNetMobile": _application("NASNetMobile", 32),
}

ROWS: dict[str, Row] = _SMALL | _APPLICATIONS
