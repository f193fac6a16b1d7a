"""Splits layers that are several operators of a TFLite file.

`Dense(activation="sigmoid")` is a FULLY_CONNECTED and a LOGISTIC, with an int8
tensor between them; `SeparableConv2D` is two convolutions.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import keras

from codeq_keras.activations.operators import is_fused
from codeq_keras.architecture.calls import Call, Graph, Tensor, kind_of

_SEPARABLE = {
    "SeparableConv1D": (keras.layers.DepthwiseConv1D, keras.layers.Conv1D),
    "SeparableConv2D": (keras.layers.DepthwiseConv2D, keras.layers.Conv2D),
}
_WITH_ACTIVATION = {
    "Conv1D", "Conv1DTranspose", "Conv2D", "Conv2DTranspose", "Conv3D",
    "Conv3DTranspose", "Dense", "DepthwiseConv1D", "DepthwiseConv2D",
    "EinsumDense",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Expanded:
    """A graph whose composite layers are split.

    Attributes:
        graph: The graph.
        twins: Pairs of a variable of a layer that was made for the split, and
            the variable of the model whose value it must have.
    """

    graph: Graph
    twins: tuple[tuple[keras.Variable, keras.Variable], ...]


def expand(graph: Graph) -> Expanded:
    """Returns the graph with one call per operator, as far as is known.

    Example:

    >>> from codeq_keras.architecture.calls import read_graph
    >>> dense = keras.layers.Dense(3, activation="sigmoid", name="dense")
    >>> model = keras.Sequential([keras.Input((4,)), dense])
    >>> [call.path for call in expand(read_graph(model)).graph.calls]
    ['dense/linear', 'dense']
    """
    used = [tensor.index for call in graph.calls for tensor in call.results]
    used += [t.index for t in keras.tree.flatten(graph.inputs)]
    numbers = itertools.count(max(used) + 1)
    made: dict[int, _Split] = {}
    calls = [
        part for call in graph.calls for part in _parts(call, numbers, made)
    ]
    twins = [pair for split in made.values() for pair in split.twins]
    return Expanded(
        dataclasses.replace(graph, calls=tuple(calls)), tuple(twins)
    )


@dataclasses.dataclass(frozen=True)
class _Split:
    """The operations that replace a layer, with names for their outputs."""

    operations: tuple[tuple[str, Any], ...]
    twins: tuple[tuple[keras.Variable, keras.Variable], ...]


def _parts(
    call: Call, numbers: Iterator[int], made: dict[int, _Split]
) -> Iterator[Call]:
    if not _is_composite(call.operation) or len(call.inputs) != 1:
        yield call
        return
    # A shared layer is split once.
    split = made.get(id(call.operation))
    if split is None:
        split = _split(call.operation, call.inputs[0])
        made[id(call.operation)] = split
    tensor = call.inputs[0]
    *first, last = split.operations
    for name, operation in first:
        shape = operation.compute_output_shape(tensor.shape)
        result = Tensor(next(numbers), tuple(shape), tensor.dtype)
        path = f"{call.path}/{name}"
        yield Call(operation, path, (tensor,), {}, result)
        tensor = result
    yield Call(last[1], call.path, (tensor,), {}, call.outputs)


def _is_composite(layer: Any) -> bool:
    kind = kind_of(layer)
    if getattr(layer, "activity_regularizer", None) is not None:
        return False  # Its loss is added by the layer as a whole.
    if kind in _SEPARABLE:
        return True
    return kind in _WITH_ACTIVATION and not is_fused(layer.activation)


def _split(layer: Any, tensor: Tensor) -> _Split:
    kind = kind_of(layer)
    if kind in _SEPARABLE:
        operations, twins = _split_separable(layer, tensor)
    else:
        linear = type(layer).from_config(
            {**_config(layer), "activation": "linear"}
        )
        linear.build(tensor.shape)
        operations = [("linear", linear)]
        twins = list(zip(linear.variables, layer.variables, strict=True))
    function = layer.activation
    if not is_fused(function):
        is_layer = isinstance(function, keras.Layer)
        activation = (
            function
            if is_layer
            else keras.layers.Activation(function, dtype=layer.dtype_policy)
        )
        operations = [*operations, ("activation", activation)]
    return _Split(tuple(operations), tuple(twins))


def _split_separable(layer: Any, tensor: Tensor) -> tuple[list[Any], list[Any]]:
    config = _config(layer)
    common = {
        key: config[key]
        for key in ("data_format", "dilation_rate", "dtype", "name")
        if key in config
    }
    make_depthwise, make_pointwise = _SEPARABLE[kind_of(layer)]
    depthwise = make_depthwise(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        use_bias=False,
        **common,
    )
    depthwise.build(tensor.shape)
    common.pop("dilation_rate", None)
    pointwise = make_pointwise(
        layer.filters,
        1,
        use_bias=layer.use_bias,
        activation=layer.activation if is_fused(layer.activation) else None,
        **common,
    )
    pointwise.build(depthwise.compute_output_shape(tensor.shape))
    twins = [
        (depthwise.kernel, layer.depthwise_kernel),
        (pointwise.kernel, layer.pointwise_kernel),
    ]
    if layer.use_bias:
        twins.append((pointwise.bias, layer.bias))
    return [("depthwise", depthwise), ("pointwise", pointwise)], twins


def _config(layer: Any) -> dict[str, Any]:
    """The layer's config without what only matters to its own variables."""
    config = dict(layer.get_config())
    for key in list(config):
        if key.endswith(("_regularizer", "_constraint")):
            config[key] = None
        elif key.endswith("_initializer"):
            config[key] = "zeros"
    return config
