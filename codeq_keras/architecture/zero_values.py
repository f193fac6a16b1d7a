"""Finds the channels of a plain model whose values are always exactly zero.

Knows the kinds below; of all others it says that nothing is zero.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.calls import (
    Call,
    Graph,
    Tensor,
    kind_of,
    tensors_in,
)

# One flag per index of the last axis of a tensor: zero for every input.
Flags = np.ndarray


def _spatial(*names: str) -> set[str]:
    return {f"{name}{rank}D" for name in names for rank in (1, 2, 3)}


# Channel by channel, and zeros become zeros. Padding puts in more zeros, or
# what no maximum takes.
_PASSING = {
    *("Dropout", "GaussianDropout", "ActivityRegularization"),
    *("PReLU", "Identity", "StopGradient"),
    *_spatial("SpatialDropout", "ZeroPadding", "Cropping", "UpSampling"),
    *_spatial("MaxPooling", "GlobalMaxPooling"),
    *_spatial("AveragePooling", "GlobalAveragePooling"),
}
# Element by element; whether zero becomes zero is tried out.
_TRIED = {"ReLU", "LeakyReLU", "ELU"}
_NAMES = (
    "relu relu6 leaky_relu elu celu selu gelu silu tanh softsign hard_silu "
    "hard_tanh tanh_shrink soft_shrink hard_shrink"
).split()
_FUNCTIONS = {
    getattr(module, name)
    for name in (*_NAMES, "linear", "mish")
    for module in (keras.activations, ops)
    if hasattr(module, name)
}
_OPERATIONS = {name.title().replace("_", "") for name in _NAMES}
# A sum is zero if all parts are, a product if one is.
_ALL = {"Add", "Subtract", "Average", "Maximum", "Minimum"}
_ANY = {"Multiply"}

_CONVOLUTIONS = _spatial("Conv")
_TRANSPOSED = {f"{name}Transpose" for name in _CONVOLUTIONS}
_DEPTHWISE = _spatial("DepthwiseConv")
_SEPARABLE = _spatial("SeparableConv")
_WITH_KERNEL = {"Dense"} | _CONVOLUTIONS | _TRANSPOSED | _DEPTHWISE | _SEPARABLE


def find_zero_reads(graph: Graph) -> dict[int, Flags]:
    """Returns which inputs of a kernel are zero in every call of its layer.

    By the kernel's id; kernels of kinds that are not known are left out.
    """
    flags: dict[int, Flags] = {}
    reads: dict[int, Flags] = {}
    for call in graph.calls:
        inputs = [_of(flags, each) for each in call.inputs]
        if not inputs or len(call.results) != 1 or not _is_plain(call):
            continue
        [result] = call.results
        output = _zero_outputs(call, inputs, reads)
        if output is not None and len(output) == result.shape[-1]:
            flags[result.index] = output
    return reads


def _of(flags: Mapping[int, Flags], tensor: Tensor) -> Flags:
    size = tensor.shape[-1] if tensor.shape else None
    return flags.get(tensor.index, np.zeros(size or 0, bool))


def _is_plain(call: Call) -> bool:
    """Whether a call has channels last, and is what its class computes."""
    operation = call.operation
    default = keras.config.image_data_format()
    used = getattr(operation, "data_format", None) or default
    return used == "channels_last" and "call" not in vars(operation)


def _zero_outputs(
    call: Call, inputs: list[Flags], reads: dict[int, Flags]
) -> Flags | None:
    """The flags of the output; notes in `reads` what kernels read."""
    layer, kind, first = call.operation, kind_of(call.operation), inputs[0]
    rank = len(call.inputs[0].shape)
    if kind in _WITH_KERNEL:
        return _after_kernel(layer, kind, first, reads)
    if kind == "BatchNormalization":
        return _after_norm(layer, first, rank)
    if kind == "Activation":
        return first & _keeps_zero(layer.activation)
    if kind in _TRIED:
        zeros = ops.convert_to_numpy(layer(ops.zeros((1, 1))))
        return first if not np.any(zeros) else None
    if kind in _PASSING:
        return first
    if kind in ("Flatten", "Reshape") and isinstance(layer, keras.Layer):
        return _reshaped(first, call)
    if kind == "Concatenate" and layer.axis in (-1, rank - 1):
        return np.concatenate(inputs)
    return _after_operation(call, kind, inputs)


def _after_operation(
    call: Call, kind: str, inputs: list[Flags]
) -> Flags | None:
    """Of operations without parameters: all arguments are tensors."""
    leaves = keras.tree.flatten((call.args, call.kwargs))
    if len(leaves) != len(tensors_in(leaves)):
        return None
    if kind in _OPERATIONS:
        return inputs[0]
    if kind in _ALL or kind == "Concatenate":
        return _joined(inputs, np.logical_and)
    if kind in _ANY:
        return _joined(inputs, np.logical_or)
    return None


def _keeps_zero(activation: Any) -> bool:
    return activation is None or activation in _FUNCTIONS


def _joined(inputs: Sequence[Flags], join: np.ufunc) -> Flags | None:
    if len({len(each) for each in inputs} - {1}) > 1:
        return None
    joined = inputs[0]
    for each in inputs[1:]:
        joined = join(joined, each)
    return joined


def _reshaped(first: Flags, call: Call) -> Flags | None:
    """Of a reshape whose last axis holds all channels, once or several."""
    size = call.results[0].shape[-1]
    if not size or not len(first) or size % len(first):
        return None
    return np.tile(first, size // len(first))


def _after_norm(layer: Any, first: Flags, rank: int) -> Flags | None:
    if layer.axis not in (-1, rank - 1):
        return None
    no_shift = not layer.center or _is_zero(layer.beta)
    no_gain = layer.scale and _is_zero(layer.gamma)
    return no_shift & (no_gain | (first & _is_zero(layer.moving_mean)))


def _is_zero(variable: Any) -> Flags:
    flags: Flags = ops.convert_to_numpy(variable) == 0
    return flags


def _after_kernel(
    layer: Any, kind: str, first: Flags, reads: dict[int, Flags]
) -> Flags:
    """Of a layer that computes `activation(kernel * x + bias)`."""
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
