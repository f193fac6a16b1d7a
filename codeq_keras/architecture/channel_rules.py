"""How layers and operations hand on channels, by the class of each.

A rule takes the `ChannelAxes`, a call and the layouts of the tensors that it
reads. It returns the layout of what the call returns, or raises `CannotShrink`
before it notes anything. A class without a rule may compute anything.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np

from codeq_keras.architecture.calls import Call, Tensor
from codeq_keras.architecture.channel_axes import CannotShrink, ChannelAxes
from codeq_keras.architecture.segments import Layout

Rule = Callable[[ChannelAxes, Call, list[Layout]], Layout]


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise CannotShrink(reason)


def _only(call: Call) -> Tensor:
    """The tensor that is read, where it is one and the first argument."""
    is_one = len(call.inputs) == 1 and call.args
    _require(
        bool(is_one) and isinstance(call.args[0], Tensor),
        "is called on more than one tensor",
    )
    if hasattr(call.operation, "data_format"):
        default = keras.config.image_data_format()
        used = call.operation.data_format or default
        _require(used == "channels_last", "has its channels first")
    return call.args[0]


def _weights(call: Call) -> dict[str, keras.Variable]:
    return {variable.name: variable for variable in call.operation.weights}


def _is_last(axis: int, rank: int) -> bool:
    return axis % rank == rank - 1


# Element by element.

_FUNCTIONS = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
    "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu "
    "soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh "
    "tanh_shrink threshold"
).split()
ELEMENTWISE = {
    getattr(module, name)
    for name in _FUNCTIONS
    for module in (keras.activations, keras.ops)
    if hasattr(module, name)
}


def _activated(axes: ChannelAxes, call: Call, layout: Layout) -> Layout:
    """Freezes the channels unless the layer's activation is element-wise."""
    function = call.operation.activation
    is_known = function is None or function in ELEMENTWISE
    if not is_known:
        name = getattr(function, "__name__", type(function).__name__)
        reason = f"{call.path!r} has the activation {name!r}"
        axes.segments.freeze(layout, f"{reason}, which may mix channels")
    return layout


def _kept(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """The channels of the input: other axes may move, shrink or grow."""
    _only(call)
    return layouts[0]


def _activation(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    return _activated(axes, call, layouts[0])


def _function(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """An operation on each element, with numbers as parameters."""
    _only(call)
    parameters = {
        k: v for k, v in vars(call.operation).items() if not k.startswith("_")
    }
    parameters |= call.kwargs | dict(enumerate(call.args[1:]))
    is_plain = all(np.ndim(value) == 0 for value in parameters.values())
    _require(is_plain, "has a parameter for each channel")
    return layouts[0]


def _rescaling(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    layer = call.operation
    is_plain = np.ndim(layer.scale) == np.ndim(layer.offset) == 0
    _require(is_plain, "has a parameter for each channel")
    return layouts[0]


def _normalization(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    _only(call)
    _require(
        call.operation.get_config()["axis"] is None,
        "has statistics for each channel",
    )
    return layouts[0]


def _dropout(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    shape = getattr(call.operation, "noise_shape", None)
    is_plain = shape is None or tuple(shape)[-1:] in ((None,), (1,))
    _require(is_plain, "has a `noise_shape` with a number of channels")
    return layouts[0]


def _batch_norm(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    tensor = _only(call)
    is_last = _is_last(call.operation.axis, len(tensor.shape))
    _require(is_last, "normalizes over an axis that is not the last")
    for variable in call.operation.weights:
        axes.slice(variable, 0, layouts[0])
    return layouts[0]


def _prelu(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    alpha = _weights(call)["alpha"]
    axis = len(alpha.shape) - 1
    if axis + 1 not in (call.operation.shared_axes or ()):
        axes.slice(alpha, axis, layouts[0])
    return layouts[0]


# Several tensors.


def _merged(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Joins of layers: a list of tensors, one value of each."""
    values = call.args[0] if len(call.args) == 1 else None
    is_list = isinstance(values, list | tuple)
    _require(
        is_list and all(isinstance(v, Tensor) for v in values),
        "is not called on a list of tensors",
    )
    _require(len(values) == len(call.inputs), "is called with a mask")
    return _joined(axes, call, layouts)


def _combined(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Joins of operations: their arguments are tensors or constants."""
    for value in (*call.args, *call.kwargs.values()):
        if not isinstance(value, Tensor):
            shape = np.shape(value)
            is_plain = shape == () or shape[-1] == 1
            _require(is_plain, "has a constant for each channel")
    return _joined(axes, call, layouts)


def _joined(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Channel by channel; a single channel is spread over the others."""
    size = call.results[0].shape[-1]
    sizes = [axes.segments.length(layout) for layout in layouts]
    _require(set(sizes) <= {1, size}, "reads a tensor of unknown channels")
    wide = [x for x, n in zip(layouts, sizes, strict=True) if n == size]
    _require(bool(wide), "reads tensors of one channel only")
    for layout, length in zip(layouts, sizes, strict=True):
        if length != size:
            reason = f"{call.path!r} spreads one channel over all"
            axes.segments.freeze(layout, reason)
        else:
            axes.segments.join(wide[0], layout)
    return wide[0]


def _concatenated(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    values = call.args[0] if call.args else ()
    is_list = isinstance(values, list | tuple) and all(
        isinstance(value, Tensor) for value in values
    )
    _require(is_list, "is not called on a list of tensors")
    _require(len(values) == len(call.inputs), "is called with a mask")
    axis = call.operation.axis
    _require(axis is not None, "has no axis")
    if _is_last(axis, len(values[0].shape)):
        return tuple(number for layout in layouts for number in layout)
    return _joined(axes, call, layouts)


# Other axes.


def _reduced(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """A statistic over axes that are not the last."""
    rank = len(_only(call).shape)
    axis = call.operation.axis
    reduced = range(rank) if axis is None else np.atleast_1d(axis)
    is_kept = not any(_is_last(int(each), rank) for each in reduced)
    _require(is_kept, "computes a statistic over channels")
    return layouts[0]


def _turned(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Permute counts from the first axis after the batch, Transpose from 0."""
    rank = len(_only(call).shape)
    if isinstance(call.operation, keras.Layer):
        last = call.operation.dims[-1]
    else:
        last = (call.operation.axes or range(rank)[::-1])[-1]
    _require(_is_last(last, rank), "moves the channels to another axis")
    return layouts[0]


def _flipped(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    return _reduced(axes, call, layouts)


def _expanded(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    rank = len(_only(call).shape)
    added = np.atleast_1d(call.operation.axis)
    rank += len(added)
    is_kept = not any(_is_last(int(each), rank) for each in added)
    _require(is_kept, "moves the channels to another axis")
    return layouts[0]


def _squeezed(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _require(call.operation.axis is not None, "has no axis")
    return _reduced(axes, call, layouts)


def _padded(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    tensor = _only(call)
    widths = call.operation.pad_width
    is_kept = len(widths) == len(tensor.shape) and not any(widths[-1])
    _require(is_kept, "pads the channels")
    return layouts[0]


def _indexed(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """`x[key]` that takes all channels."""
    tensor = _only(call)
    key = call.args[1] if len(call.args) == 2 else None
    key = key if isinstance(key, tuple) else (key,)
    known = (int, slice, type(None), type(Ellipsis))
    is_known = len(call.args) == 2 and all(isinstance(k, known) for k in key)
    _require(is_known, "picks elements")
    taken = sum(isinstance(k, int | slice) for k in key)
    reaches_last = taken == len(tensor.shape) or Ellipsis in key[:-1]
    whole = slice(None)
    is_kept = isinstance(key[-1], slice) and key[-1] == whole
    _require(is_kept or not reaches_last, "picks channels")
    return layouts[0]


def _flattened(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Each position of the image has all channels."""
    shape = _only(call).shape[1:]
    _require(bool(shape) and None not in shape, "has an input of open size")
    return layouts[0] * int(np.prod(shape[:-1], dtype=int))


def _reshaped(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """A last axis that holds all channels of one position or of several."""
    old, new = _only(call).shape[-1], call.results[0].shape[-1]
    _require(old is not None and new is not None, "has an axis of open size")
    _require(bool(old) and new % old == 0, "takes the channels apart")
    layout = layouts[0] * (new // old)
    target = call.operation.target_shape
    _require(bool(target), "has no axis of channels")
    if target[-1] != -1:
        position = len(target) - 1
        axes.count(call.operation, "target_shape", layout, position)
    return layout


# Kernels.


def _written(axes: ChannelAxes, call: Call, layout: Layout, key: str) -> Layout:
    """What a layer with a bias and an activation does with its channels."""
    bias = _weights(call).get("bias")
    if bias is not None:
        axes.slice(bias, len(bias.shape) - 1, layout)
    axes.count(call.operation, key, layout)
    return _activated(axes, call, layout)


def _dense(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    kernel = _weights(call)["kernel"]
    axes.read(kernel, 0, layouts[0])
    return _written(axes, call, axes.write(call, kernel, 1), "units")


def _conv(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    layer, kernel = call.operation, _weights(call)["kernel"]
    rank = len(kernel.shape)
    if layer.groups > 1:
        channels = axes.segments.length(layouts[0])
        is_depthwise = layer.groups == channels == layer.filters
        _require(is_depthwise, "has groups of several channels")
        axes.slice(kernel, rank - 1, layouts[0])
        axes.count(layer, "groups", layouts[0])
        return _written(axes, call, layouts[0], "filters")
    axes.read(kernel, rank - 2, layouts[0])
    return _written(axes, call, axes.write(call, kernel, rank - 1), "filters")


def _conv_transpose(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    _only(call)
    kernel = _weights(call)["kernel"]
    rank = len(kernel.shape)
    axes.read(kernel, rank - 1, layouts[0])
    return _written(axes, call, axes.write(call, kernel, rank - 2), "filters")


def _depthwise(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    is_one = call.operation.depth_multiplier == 1
    _require(is_one, "has a `depth_multiplier` above 1")
    weights = _weights(call)
    kernel = weights["kernel"]
    axes.slice(kernel, len(kernel.shape) - 2, layouts[0])
    if "bias" in weights:
        axes.slice(weights["bias"], 0, layouts[0])
    return _activated(axes, call, layouts[0])


def _separable(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    is_one = call.operation.depth_multiplier == 1
    _require(is_one, "has a `depth_multiplier` above 1")
    weights = _weights(call)
    depthwise = weights["depthwise_kernel"]
    pointwise = weights["pointwise_kernel"]
    rank = len(pointwise.shape)
    axes.slice(depthwise, rank - 2, layouts[0])
    axes.read(pointwise, rank - 2, layouts[0])
    return _written(
        axes, call, axes.write(call, pointwise, rank - 1), "filters"
    )


def _einsum_dense(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    """The last letters of input and output number channels; others stay."""
    _only(call)
    layer, weights = call.operation, _weights(call)
    left, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    channel, written = inputs[-1], outputs[-1]
    is_read = channel in kernel and channel not in outputs
    is_written = written in kernel and written not in inputs
    _require(is_read and is_written, "keeps letters that are no channels")
    variable = weights["kernel"]
    axes.read(variable, kernel.index(channel), layouts[0])
    layout = axes.write(call, variable, kernel.index(written))
    if "bias" in weights and written in layer.bias_axes:
        bias = weights["bias"]
        # Axes of the output that the bias lacks are of length 1, or left out.
        later = outputs[outputs.index(layer.bias_axes[0]) :]
        axes.slice(bias, later.index(written), layout)
    position = len(layer.partial_output_shape) - 1
    axes.count(layer, "output_shape", layout, position)
    return _activated(axes, call, layout)


def _embedding(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    _only(call)
    axes.segments.freeze(layouts[0], f"{call.path!r} reads indices")
    layout = axes.write(call, _weights(call)["embeddings"], 1)
    axes.count(call.operation, "output_dim", layout)
    return layout


def _rules(*pairs: tuple[str, Rule]) -> dict[str, Rule]:
    return {name: rule for names, rule in pairs for name in names.split()}


def _spatial(*names: str) -> str:
    return " ".join(f"{name}{n}D" for name in names for n in (1, 2, 3))


LAYERS = _rules(
    ("Dense", _dense),
    ("EinsumDense", _einsum_dense),
    (_spatial("Conv"), _conv),
    ("Conv1DTranspose Conv2DTranspose Conv3DTranspose", _conv_transpose),
    ("DepthwiseConv1D DepthwiseConv2D", _depthwise),
    ("SeparableConv1D SeparableConv2D", _separable),
    ("Embedding", _embedding),
    ("BatchNormalization", _batch_norm),
    ("PReLU", _prelu),
    ("Activation", _activation),
    ("ReLU LeakyReLU ELU Identity ActivityRegularization", _kept),
    ("GaussianDropout GaussianNoise", _kept),
    ("Dropout AlphaDropout", _dropout),
    (_spatial("SpatialDropout"), _kept),
    (_spatial("MaxPooling", "AveragePooling"), _kept),
    (_spatial("GlobalMaxPooling", "GlobalAveragePooling"), _kept),
    (_spatial("AdaptiveMaxPooling", "AdaptiveAveragePooling"), _kept),
    (_spatial("ZeroPadding", "Cropping", "UpSampling"), _kept),
    ("RepeatVector Resizing CenterCrop", _kept),
    ("Rescaling", _rescaling),
    ("Normalization", _normalization),
    ("Add Subtract Multiply Average Maximum Minimum", _merged),
    ("Concatenate", _concatenated),
    ("Flatten", _flattened),
    ("Reshape", _reshaped),
    ("Permute", _turned),
)

OPERATIONS = _rules(
    (
        "Abs Absolute Cast Ceil Celu Clip Cos Elu Erf Exp Expm1 Floor Gelu "
        "HardShrink HardSigmoid HardSilu HardTanh LeakyRelu Log Log1p "
        "LogSigmoid Negative Reciprocal Relu Relu6 Round Rsqrt Selu Sigmoid "
        "Sign Silu Sin SoftShrink Softplus Softsign SparsePlus SparseSigmoid "
        "Sqrt Square Squareplus StopGradient Tanh TanhShrink Threshold",
        _function,
    ),
    (
        "Add Divide DivideNoNan Equal FloorDivide Greater GreaterEqual Less "
        "LessEqual Logaddexp LogicalAnd LogicalOr Maximum Minimum Mod "
        "Multiply NotEqual Power Subtract TrueDivide Where",
        _combined,
    ),
    ("Amax Amin Logsumexp Max Mean Min Prod Std Sum Var", _reduced),
    ("Concatenate", _concatenated),
    ("MaxPool AveragePool Resize", _kept),
    ("AdaptiveMaxPool AdaptiveAveragePool", _kept),
    ("ExpandDims", _expanded),
    ("Flip", _flipped),
    ("GetItem", _indexed),
    ("Pad", _padded),
    ("Squeeze", _squeezed),
    ("Transpose", _turned),
)

# Their statistics are of several channels.
NORMALIZING = {
    "GroupNormalization", "LayerNorm", "LayerNormalization", "LogSoftmax",
    "Normalize", "RMSNorm", "RMSNormalization", "Softmax", "UnitNormalization",
}  # fmt: skip


def reason_for(kind: str, operation: Any) -> str:
    """Returns why the channels of a class without a rule must stay."""
    if kind in NORMALIZING:
        return "normalizes over channels"
    name = type(operation).__name__
    if isinstance(operation, keras.Model):
        return (
            f"is a {name} with a `call` of its own; a functional model can "
            "shrink: `keras.Model(inputs, outputs)`"
        )
    return f"is a {name}, which may mix channels"


def all_sizes(tensors: Iterable[Tensor]) -> list[int | None]:
    """Returns the length of the last axis of each tensor."""
    return [t.shape[-1] if len(t.shape) > 1 else None for t in tensors]
