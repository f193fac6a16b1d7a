"""How layers and operations hand on channels, by the class of each.

A rule takes the `ChannelAxes`, a call and the layouts of the tensors that it
reads. It returns the layout of what the call returns, or raises `CannotShrink`
before it notes anything. A class without a rule may compute anything.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from codeq_keras.architecture import channel_kernels as kernels
from codeq_keras.architecture.calls import Call, Tensor, kind_of
from codeq_keras.architecture.channel_axes import (
    CannotShrink,
    ChannelAxes,
    is_last,
    num_channels,
    only_tensor,
    require,
    weights_of,
)
from codeq_keras.architecture.segments import Layout

Rule = Callable[[ChannelAxes, Call, list[Layout]], Layout]


# Element by element.


def _kept(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """The channels of the input: other axes may move, shrink or grow."""
    only_tensor(call)
    return layouts[0]


def _activation(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    only_tensor(call)
    return kernels.activated(axes, call, layouts[0])


def _function(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """An operation on each element, with numbers as parameters."""
    only_tensor(call)
    parameters = {
        k: v for k, v in vars(call.operation).items() if not k.startswith("_")
    }
    parameters |= call.kwargs | dict(enumerate(call.args[1:]))
    is_plain = all(np.ndim(value) == 0 for value in parameters.values())
    require(is_plain, "has a parameter for each channel")
    return layouts[0]


def _rescaling(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    only_tensor(call)
    layer = call.operation
    is_plain = np.ndim(layer.scale) == np.ndim(layer.offset) == 0
    require(is_plain, "has a parameter for each channel")
    return layouts[0]


def _normalization(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    only_tensor(call)
    require(
        call.operation.get_config()["axis"] is None,
        "has statistics for each channel",
    )
    return layouts[0]


def _dropout(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    only_tensor(call)
    shape = getattr(call.operation, "noise_shape", None)
    is_plain = shape is None or tuple(shape)[-1:] in ((None,), (1,))
    require(is_plain, "has a `noise_shape` with a number of channels")
    return layouts[0]


def _batch_norm(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    tensor = only_tensor(call)
    is_over_last = is_last(call.operation.axis, len(tensor.shape))
    require(is_over_last, "normalizes over an axis that is not the last")
    for variable in call.operation.weights:
        axes.slice(variable, 0, layouts[0])
    return layouts[0]


def _prelu(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    only_tensor(call)
    alpha = weights_of(call)["alpha"]
    axis = len(alpha.shape) - 1
    if axis + 1 not in (call.operation.shared_axes or ()):
        axes.slice(alpha, axis, layouts[0])
    return layouts[0]


# Several tensors.


def _only_list(call: Call) -> list[Tensor]:
    """The tensors that are read, where they are one list."""
    values = call.args[0] if len(call.args) == 1 else ()
    is_list = isinstance(values, list | tuple) and all(
        isinstance(value, Tensor) for value in values
    )
    require(is_list and bool(values), "is not called on a list of tensors")
    require(len(values) == len(call.inputs), "is called with a mask")
    return list(values)


def _merged(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Joins of layers: a list of tensors, one value of each."""
    _only_list(call)
    return _joined(axes, call, layouts)


def _combined(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Joins of operations: their arguments are tensors or constants."""
    for value in (*call.args, *call.kwargs.values()):
        if not isinstance(value, Tensor):
            is_plain = tuple(np.shape(value))[-1:] in ((), (1,))
            require(is_plain, "has a constant for each channel")
    return _joined(axes, call, layouts)


def _joined(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Channel by channel; a single channel is spread over the others."""
    size = call.results[0].shape[-1]
    sizes = [axes.segments.length(layout) for layout in layouts]
    require(set(sizes) <= {1, size}, "reads a tensor of unknown channels")
    wide = [x for x, n in zip(layouts, sizes, strict=True) if n == size]
    require(bool(wide), "reads tensors of one channel only")
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
    values = _only_list(call)
    axis = call.operation.axis
    require(axis is not None, "has no axis")
    if is_last(axis, len(values[0].shape)):
        return tuple(number for layout in layouts for number in layout)
    return _joined(axes, call, layouts)


# Other axes.


def _over_others(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    """Works over axes that are not the last: means, flips, squeezes."""
    rank = len(only_tensor(call).shape)
    axis = call.operation.axis
    used = range(rank) if axis is None else np.atleast_1d(axis)
    is_kept = not any(is_last(int(each), rank) for each in used)
    require(is_kept, "works over the axis of channels")
    return layouts[0]


def _turned(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Permute counts from the first axis after the batch, Transpose from 0."""
    rank = len(only_tensor(call).shape)
    if isinstance(call.operation, keras.Layer):
        last = call.operation.dims[-1]
    else:
        last = (call.operation.axes or range(rank)[::-1])[-1]
    require(is_last(last, rank), "moves the channels to another axis")
    return layouts[0]


def _expanded(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    rank = len(only_tensor(call).shape)
    added = np.atleast_1d(call.operation.axis)
    rank += len(added)
    is_kept = not any(is_last(int(each), rank) for each in added)
    require(is_kept, "moves the channels to another axis")
    return layouts[0]


def _padded(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    tensor = only_tensor(call)
    widths = call.operation.pad_width
    is_kept = len(widths) == len(tensor.shape) and not any(widths[-1])
    require(is_kept, "pads the channels")
    return layouts[0]


def _indexed(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """`x[key]` that takes all channels."""
    tensor = only_tensor(call)
    key = call.args[1] if len(call.args) == 2 else None
    key = key if isinstance(key, tuple) else (key,)
    known = (int, slice, type(None), type(Ellipsis))
    is_known = len(call.args) == 2 and all(isinstance(k, known) for k in key)
    require(is_known, "picks elements")
    taken = sum(isinstance(k, int | slice) for k in key)
    reaches_last = taken == len(tensor.shape) or Ellipsis in key[:-1]
    whole = slice(None)
    is_kept = isinstance(key[-1], slice) and key[-1] == whole
    require(is_kept or not reaches_last, "picks channels")
    return layouts[0]


def _flattened(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Each position of the image has all channels."""
    shape = only_tensor(call).shape[1:]
    require(bool(shape) and None not in shape, "has an input of open size")
    return layouts[0] * int(np.prod(shape[:-1], dtype=int))


def _reshaped(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """A last axis that holds all channels of one position or of several."""
    old = num_channels(only_tensor(call)) or 0
    new = num_channels(call.results[0]) or 0
    require(old > 0 and new % old == 0, "takes the channels apart")
    layout = layouts[0] * (new // old)
    target = call.operation.target_shape
    require(bool(target), "has no axis of channels")
    if target[-1] != -1:
        position = len(target) - 1
        axes.count(call.operation, "target_shape", layout, position)
    return layout


def _rules(*pairs: tuple[str, Rule]) -> dict[str, Rule]:
    return {name: rule for names, rule in pairs for name in names.split()}


def _spatial(*names: str) -> str:
    return " ".join(f"{name}{n}D" for name in names for n in (1, 2, 3))


_LAYERS = _rules(
    ("Dense", kernels.dense),
    ("EinsumDense", kernels.einsum_dense),
    (_spatial("Conv"), kernels.conv),
    ("Conv1DTranspose Conv2DTranspose Conv3DTranspose", kernels.conv_transpose),
    ("DepthwiseConv1D DepthwiseConv2D", kernels.depthwise),
    ("SeparableConv1D SeparableConv2D", kernels.separable),
    ("Embedding", kernels.embedding),
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
    (
        "Add Average CustomScaleLayer Maximum Minimum Multiply Subtract",
        _merged,
    ),
    ("Concatenate", _concatenated),
    ("Flatten", _flattened),
    ("Reshape", _reshaped),
    ("Permute", _turned),
)

_OPERATIONS = _rules(
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
    (
        "Amax Amin Flip Logsumexp Max Mean Min Prod Std Squeeze Sum Var",
        _over_others,
    ),
    ("Concatenate", _concatenated),
    ("MaxPool AveragePool Resize", _kept),
    ("AdaptiveMaxPool AdaptiveAveragePool", _kept),
    ("ExpandDims", _expanded),
    ("GetItem", _indexed),
    ("Pad", _padded),
    ("Transpose", _turned),
)

# Their statistics are of several channels.
_NORMALIZING = {
    "GroupNormalization", "LayerNorm", "LayerNormalization", "LogSoftmax",
    "Normalize", "RMSNorm", "RMSNormalization", "Softmax", "UnitNormalization",
}  # fmt: skip


def rule_for(operation: Any) -> Rule:
    """Returns the rule of an operation's class; raises `CannotShrink`."""
    kind = kind_of(operation)
    is_layer = isinstance(operation, keras.Layer)
    rule = (_LAYERS if is_layer else _OPERATIONS).get(kind)
    # A call that was set on the object may compute anything, too.
    if rule is None or "call" in vars(operation):
        raise CannotShrink(_reason(kind, operation))
    return rule


def own_call(model: keras.Model) -> str:
    """Returns why the channels of a subclassed model must stay."""
    return (
        f"is a {type(model).__name__} with a `call` of its own; make it "
        "functional: `keras.Model(inputs, outputs)`"
    )


def _reason(kind: str, operation: Any) -> str:
    if kind in _NORMALIZING:
        return "normalizes over channels"
    name = type(operation).__name__
    if isinstance(operation, keras.Model):
        return own_call(operation)
    return f"is of the class {name}, which may mix channels"
