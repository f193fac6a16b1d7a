"""TFLite's operators for a layer or operation, by its class."""

from typing import Any

import keras

from codeq_keras.architecture.calls import kind_of

# Layers and operations by class name: `keras.ops` has no public classes. Only
# classes of Keras itself count, see `kind_of`.

# Nothing at inference: their output is their input.
VANISHING = {
    "ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout",
    "GaussianNoise", "Identity", "SpatialDropout1D", "SpatialDropout2D",
    "SpatialDropout3D",
}  # fmt: skip

# Their output holds values of their input, or zeros, so it has its range.
MOVING = {
    "Cropping1D", "Cropping2D", "Cropping3D", "ExpandDims", "Flatten", "Flip",
    "GetItem", "GlobalMaxPooling1D", "GlobalMaxPooling2D",
    "GlobalMaxPooling3D", "MaxPool", "MaxPooling1D", "MaxPooling2D",
    "MaxPooling3D", "Permute", "Ravel", "Repeat", "RepeatVector", "Reshape",
    "Split", "Squeeze", "Tile", "Transpose", "ZeroPadding1D", "ZeroPadding2D",
    "ZeroPadding3D",
}  # fmt: skip

# They move data as well where each average is of one value, as after the last
# convolutions of a network for large images that is given small ones.
AVERAGING = {
    "GlobalAveragePooling1D", "GlobalAveragePooling2D",
    "GlobalAveragePooling3D", "Mean",
}  # fmt: skip

# TFLite keeps the scale of their input, and rounds the results to it.
SAME_SCALE = {
    "AveragePool", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D",
    "Resize", "UpSampling1D", "UpSampling2D", "UpSampling3D",
}  # fmt: skip

# TFLite reads and writes at one scale: rounding what they read is rounding
# what they return.
JOINING = {"Concatenate", "Maximum", "Minimum"}

# A BatchNormalization after them becomes part of their weights.
CONVOLUTIONS = {
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D",
    "Dense", "DepthwiseConv1D", "DepthwiseConv2D", "EinsumDense",
    "SeparableConv1D", "SeparableConv2D",
}  # fmt: skip

AFFINE = {"BatchNormalization", "Normalization", "Rescaling"}

# An activation after them is computed by the same operator of the file.
FUSING = CONVOLUTIONS | AFFINE | {"Add", "Subtract", "Multiply"}

FUSED_ACTIVATIONS = {"linear", "relu", "relu6"}

# The ranges that TFLite prescribes: a scale of 1/256 or 1/128, zero point -128
# or 0.
FIXED_RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}

# One operator each, or (SiLU) two with a prescribed range between them.
SINGLE_ACTIVATIONS = {"gelu", "hard_silu", "leaky_relu", "silu"}

# One operator of a file each, so that nothing inside is without a range.
SINGLE_OPERATORS = (
    VANISHING | MOVING | SAME_SCALE | JOINING | FUSING | {
        "Cast", "Embedding", "GlobalAveragePooling1D", "GlobalAveragePooling2D",
        "InputLayer", "LeakyReLU", "LeakyRelu", "Mean", "PReLU", "ReLU",
    }
)  # fmt: skip


def activation_of(operation: Any) -> str | None:
    """Returns the name of the function if an operation is an activation.

    Example:

    >>> activation_of(keras.layers.ReLU(max_value=6))
    'relu6'
    """
    kind = kind_of(operation)
    if kind == "ReLU":
        config = operation.get_config()
        if config["negative_slope"] or config["threshold"]:
            return None
        limits = {None: "relu", 6: "relu6"}
        return limits.get(config["max_value"])
    if kind == "Activation":
        return activation_name(operation.activation)
    if kind == "Softmax":
        is_last = operation.get_config()["axis"] == -1
        return "softmax" if is_last else None
    names = {
        "Gelu": "gelu",
        "HardSilu": "hard_silu",
        "Relu": "relu",
        "Relu6": "relu6",
        "Sigmoid": "sigmoid",
        "Silu": "silu",
        "Softmax": "softmax",
        "Tanh": "tanh",
    }
    return names.get(kind)


def activation_name(function: Any) -> str:
    """Returns the name of an activation function, "" for a custom one."""
    name = keras.activations.serialize(function) if function else "linear"
    return name if isinstance(name, str) else ""


def is_fused(function: Any) -> bool:
    """Whether TFLite computes an activation in the operator before it."""
    return activation_name(function) in FUSED_ACTIVATIONS


def is_one_hot(operation: Any) -> bool:
    """Whether an operation returns zeros and ones for indices."""
    if kind_of(operation) == "CategoryEncoding":
        return operation.output_mode in ("one_hot", "multi_hot")
    return kind_of(operation) == "OneHot"


def is_joining(operation: Any) -> bool:
    """Whether an operation reads all its inputs at the scale of its output."""
    return kind_of(operation) in JOINING
