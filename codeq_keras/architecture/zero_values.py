"""Finds the channels of a plain model whose values are always exactly zero.

Knows the layers below; of all others it says that nothing is zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from codeq_keras.architecture.calls import Call, Graph, Tensor

# One flag per index of the last axis of a tensor: zero for every input.
Flags = np.ndarray

# Channel by channel, and zeros become zeros.
_PASSING = (
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.ActivityRegularization,
    layers.PReLU,
    layers.Identity,
)

# The same, where the channels are last.
_SPATIAL = tuple(
    getattr(layers, f"{kind}{rank}D")
    for kind in (
        "ZeroPadding",
        "Cropping",
        "UpSampling",
        "MaxPooling",
        "AveragePooling",
        "GlobalMaxPooling",
        "GlobalAveragePooling",
    )
    for rank in (1, 2, 3)
)

# Element by element; whether zero becomes zero is tried out.
_TRIED = (layers.ReLU, layers.LeakyReLU, layers.ELU)
_FUNCTIONS = tuple(
    getattr(keras.activations, name)
    for name in (
        "linear relu relu6 leaky_relu elu celu selu gelu silu mish tanh "
        "softsign hard_silu hard_tanh tanh_shrink soft_shrink hard_shrink"
    ).split()
)

# A sum is zero if all parts are, a product if one is.
_ALL = (
    layers.Add,
    layers.Subtract,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


def find_zero_reads(graph: Graph) -> dict[int, Flags]:
    """Returns which inputs of a kernel are zero in every call of its layer.

    By the kernel's id; kernels of layers that are not known are left out.
    """
    flags: dict[int, Flags] = {}
    reads: dict[int, Flags] = {}
    for call in graph.calls:
        inputs = [_of(flags, each) for each in call.inputs]
        layer = _known(call.operation)
        if layer is None or not inputs or len(call.results) != 1:
            continue
        if call.results[0].shape[-1:] in ((), (None,)):
            continue
        output = _zero_outputs(layer, call, inputs, reads)
        if output is not None:
            flags[call.results[0].index] = output
    return reads


def _of(flags: Mapping[int, Flags], tensor: Tensor) -> Flags:
    size = tensor.shape[-1] if tensor.shape else None
    return flags.get(tensor.index, np.zeros(size or 0, bool))


def _known(operation: Any) -> Any:
    """The layer that is applied to the last axis; None for a user's own."""
    while type(operation) is layers.TimeDistributed:
        operation = operation.layer
    is_keras = type(operation).__module__.startswith("keras.")
    return operation if is_keras else None


def _zero_outputs(
    layer: Any, call: Call, inputs: list[Flags], reads: dict[int, Flags]
) -> Flags | None:
    """The flags of the output; notes in `reads` what kernels read."""
    first = inputs[0]
    if type(layer) in _PASSING:
        return first
    if type(layer) in _SPATIAL:
        return first if _is_channels_last(layer) else None
    if type(layer) in _TRIED:
        zeros = ops.convert_to_numpy(layer(ops.zeros((1, 1))))
        return first if not np.any(zeros) else None
    if type(layer) is layers.Activation:
        return first & _keeps_zero(layer.activation)
    if type(layer) is layers.BatchNormalization:
        return _after_norm(layer, first, len(call.inputs[0].shape))
    if type(layer) in _ALL:
        return _joined(inputs, np.logical_and)
    if type(layer) is layers.Multiply:
        return _joined(inputs, np.logical_or)
    if type(layer) is layers.Concatenate:
        is_last = layer.axis in (-1, len(call.inputs[0].shape) - 1)
        return (
            np.concatenate(inputs)
            if is_last
            else _joined(inputs, np.logical_and)
        )
    if type(layer) in (layers.Flatten, layers.Reshape):
        return _reshaped(layer, first, call)
    return _after_kernel(layer, first, reads)


def _is_channels_last(layer: Any) -> bool:
    # ZeroPadding1D and Cropping1D have no other format.
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _keeps_zero(activation: Any) -> bool:
    return activation is None or activation in _FUNCTIONS


def _joined(inputs: Sequence[Flags], join: np.ufunc) -> Flags | None:
    sizes = {len(each) for each in inputs} - {1}
    if len(sizes) > 1:
        return None
    joined = inputs[0]
    for each in inputs[1:]:
        joined = join(joined, each)
    return joined


def _reshaped(layer: Any, first: Flags, call: Call) -> Flags | None:
    """Of a reshape after which the channels still are the innermost."""
    if not _is_channels_last(layer):
        return None
    size = call.results[0].shape[-1]
    is_whole = len(call.results[0].shape) == 2
    if size == len(first):
        return first
    if is_whole and size and len(first) and size % len(first) == 0:
        return np.tile(first, size // len(first))
    return None


def _after_norm(layer: Any, first: Flags, rank: int) -> Flags | None:
    if layer.axis not in (-1, rank - 1):
        return None
    no_shift = not layer.center or _is_zero(layer.beta)
    no_gain = layer.scale and _is_zero(layer.gamma)
    return no_shift & (no_gain | (first & _is_zero(layer.moving_mean)))


def _is_zero(variable: Any) -> Flags:
    return ops.convert_to_numpy(variable) == 0


def _after_kernel(
    layer: Any, first: Flags, reads: dict[int, Flags]
) -> Flags | None:
    """Of a layer that computes `activation(kernel * x + bias)`."""
    kind = type(layer)
    if kind is not layers.Dense and not (
        kind in _CONVOLUTIONS + _TRANSPOSED + _DEPTHWISE + _SEPARABLE
        and _is_channels_last(layer)
    ):
        return None
    if kind in _DEPTHWISE:
        output = _depthwise(layer.kernel, first)
    elif kind in _SEPARABLE:
        output = _depthwise(layer.depthwise_kernel, first)
        output = _dense(layer.pointwise_kernel, output, reads)
    else:
        groups = layer.groups if kind in _CONVOLUTIONS else 1
        is_transposed = kind in _TRANSPOSED
        output = _dense(layer.kernel, first, reads, groups, is_transposed)
    if layer.bias is not None:
        output = output & _is_zero(layer.bias)
    return output & _keeps_zero(layer.activation)


def _depthwise(kernel: Any, first: Flags) -> Flags:
    zero = np.all(_is_zero(kernel), axis=tuple(range(len(kernel.shape) - 2)))
    return np.ravel(zero | first[:, None])


def _dense(
    kernel: Any,
    first: Flags,
    reads: dict[int, Flags],
    groups: int = 1,
    is_transposed: bool = False,
) -> Flags:
    reads[id(kernel)] = reads.get(id(kernel), True) & first
    zero = np.all(_is_zero(kernel), axis=tuple(range(len(kernel.shape) - 2)))
    zero = zero.T if is_transposed else zero  # Inputs, outputs.
    parts = zip(
        np.split(zero, groups, axis=1), np.split(first, groups), strict=True
    )
    return np.concatenate(
        [np.all(part | read[:, None], axis=0) for part, read in parts]
    )
