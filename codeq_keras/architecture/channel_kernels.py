"""How layers with kernels hand on channels: see `channel_rules`."""

import keras

from codeq_keras.architecture.calls import Call, kind_of
from codeq_keras.architecture.channel_axes import (
    ChannelAxes,
    only_tensor,
    require,
    weights_of,
)
from codeq_keras.architecture.segments import Layout

_FUNCTIONS = (
    "celu elu exponential gelu hard_shrink hard_sigmoid hard_silu hard_tanh "
    "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu "
    "soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh "
    "tanh_shrink threshold"
).split()
_ELEMENTWISE = [
    getattr(module, name)
    for name in _FUNCTIONS
    for module in (keras.activations, keras.ops)
    if hasattr(module, name)
]


def activated(axes: ChannelAxes, call: Call, layout: Layout) -> Layout:
    """Freezes the channels unless the layer's activation is element-wise."""
    function = call.operation.activation
    # A function of a user may have any name and need not have a hash.
    is_elementwise = (
        function is None
        or any(function is known for known in _ELEMENTWISE)
        or kind_of(function) in ("ELU", "LeakyReLU", "ReLU")
    )
    if not is_elementwise:
        name = getattr(function, "__name__", type(function).__name__)
        reason = f"{call.path!r} has the activation {name!r}"
        axes.segments.freeze(layout, f"{reason}, which may mix channels")
    return layout


def _written(axes: ChannelAxes, call: Call, layout: Layout, key: str) -> Layout:
    """What a layer with a bias and an activation does with its channels."""
    bias = weights_of(call).get("bias")
    if bias is not None:
        axes.slice(bias, len(bias.shape) - 1, layout)
    axes.count(call.operation, key, layout)
    return activated(axes, call, layout)


def dense(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Dense: its kernel is (in, out)."""
    only_tensor(call)
    kernel = weights_of(call)["kernel"]
    axes.read(kernel, 0, layouts[0])
    return _written(axes, call, axes.write(call, kernel, 1), "units")


def conv(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Convolution: (..., in, out); with a group a channel, (..., 1, out)."""
    only_tensor(call)
    layer, kernel = call.operation, weights_of(call)["kernel"]
    rank = len(kernel.shape)
    if layer.groups > 1:
        channels = axes.segments.length(layouts[0])
        is_depthwise = layer.groups == channels == layer.filters
        require(is_depthwise, "has groups of several channels")
        axes.slice(kernel, rank - 1, layouts[0])
        axes.count(layer, "groups", layouts[0])
        return _written(axes, call, layouts[0], "filters")
    axes.read(kernel, rank - 2, layouts[0])
    return _written(axes, call, axes.write(call, kernel, rank - 1), "filters")


def conv_transpose(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    """Transposed convolution: (..., out, in)."""
    only_tensor(call)
    kernel = weights_of(call)["kernel"]
    rank = len(kernel.shape)
    axes.read(kernel, rank - 1, layouts[0])
    return _written(axes, call, axes.write(call, kernel, rank - 2), "filters")


def _weights_of_depthwise(call: Call) -> dict[str, keras.Variable]:
    """The weights of a depthwise layer with one output a channel."""
    only_tensor(call)
    is_one = call.operation.depth_multiplier == 1
    require(is_one, "has a `depth_multiplier` above 1")
    return weights_of(call)


def depthwise(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Depthwise convolution, (..., channel, 1): it mixes no channels."""
    weights = _weights_of_depthwise(call)
    kernel = weights["kernel"]
    axes.slice(kernel, len(kernel.shape) - 2, layouts[0])
    if "bias" in weights:
        axes.slice(weights["bias"], 0, layouts[0])
    return activated(axes, call, layouts[0])


def separable(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """Depthwise convolution, then a pointwise one, (..., in, out)."""
    weights = _weights_of_depthwise(call)
    depthwise = weights["depthwise_kernel"]
    pointwise = weights["pointwise_kernel"]
    rank = len(pointwise.shape)
    axes.slice(depthwise, rank - 2, layouts[0])
    axes.read(pointwise, rank - 2, layouts[0])
    return _written(
        axes, call, axes.write(call, pointwise, rank - 1), "filters"
    )


def einsum_dense(
    axes: ChannelAxes, call: Call, layouts: list[Layout]
) -> Layout:
    """The last letters of input and output number channels; others stay."""
    only_tensor(call)
    layer, weights = call.operation, weights_of(call)
    left, outputs = layer.equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    channel, written = inputs[-1], outputs[-1]
    is_read = channel in kernel and channel not in outputs
    is_written = written in kernel and written not in inputs
    require(is_read and is_written, "keeps letters that are no channels")
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
    return activated(axes, call, layout)


def embedding(axes: ChannelAxes, call: Call, layouts: list[Layout]) -> Layout:
    """A table, (index, channel); its input holds indices."""
    only_tensor(call)
    axes.segments.freeze(layouts[0], f"{call.path!r} reads indices")
    layout = axes.write(call, weights_of(call)["embeddings"], 1)
    axes.count(call.operation, "output_dim", layout)
    return layout
