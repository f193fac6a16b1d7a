"""Finds the channels of a model that must shrink together.

Removing a filter of a convolution removes a slice of all that follows it: of
BatchNormalization, of depthwise convolutions, of what is added to its output,
of the kernels that read it. `find_channels` follows the channels through the
calls of a model; `channel_rules` knows what each class of layers does to them.
"""

import dataclasses
import itertools
import types
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from codeq_keras.architecture.calls import (
    Call,
    Tensor,
    kind_of,
    read_graph,
    tensors_in,
)
from codeq_keras.architecture.channel_axes import (
    CannotShrink,
    ChannelAxes,
    Setting,
)
from codeq_keras.architecture.channel_rules import (
    LAYERS,
    OPERATIONS,
    all_sizes,
    reason_for,
)
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.segments import Layout
from codeq_keras.architecture.visits import all_layers, has_layer_list


@dataclasses.dataclass(frozen=True)
class ChannelClass:
    """Channels of several axes that must shrink together.

    Attributes:
        size: The number of channels.
        frozen: Why it cannot shrink; None if it can.
        members: Paths of the kernels that write it, or the name of the input.
    """

    size: int
    frozen: str | None
    members: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """Where the channels of a model are.

    A layout has the numbers of classes in the order in which their channels
    lie along an axis. After Flatten, one class is in it many times.

    Attributes:
        classes: The classes that weights have channels of.
        axes: By the id of a variable, the layout of each axis with channels.
        reads: By the id of a kernel, its axis that reads channels.
        settings: The entries of configs that count channels.
    """

    classes: tuple[ChannelClass, ...]
    axes: Mapping[int, Mapping[int, Layout]]
    reads: Mapping[int, int]
    settings: tuple[Setting, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of channels of each class."""
        return tuple(each.size for each in self.classes)

    @property
    def free(self) -> tuple[int, ...]:
        """The numbers of the classes that can shrink."""
        return tuple(
            number
            for number, each in enumerate(self.classes)
            if each.frozen is None
        )


def channel_positions(
    layout: Layout, sizes: Mapping[int, int] | tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the class and the channel in it, for each place along an axis.

    Example:

    >>> channel_positions((1, 0, 1), (1, 2))
    (array([1, 1, 0, 1, 1]), array([0, 1, 0, 0, 1]))
    """
    lengths = np.array([sizes[number] for number in layout], dtype=int)
    classes = np.repeat(np.array(layout, dtype=int), lengths)
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return classes, np.arange(len(classes)) - starts


def kept_positions(
    layout: Layout,
    kept: Mapping[int, np.ndarray],
    sizes: Mapping[int, int] | tuple[int, ...],
) -> np.ndarray:
    """Returns the places along an axis that stay.

    `kept` has the channels that stay, in rising order, by class; a class that
    it lacks stays as it is.

    Example:

    >>> kept_positions((1, 0, 1), {1: np.array([1])}, sizes=(1, 2))
    array([1, 2, 4])
    """
    stays = {number: np.ones(sizes[number], bool) for number in set(layout)}
    for number in stays.keys() & kept.keys():
        stays[number] = np.isin(np.arange(sizes[number]), kept[number])
    whole = [stays[number] for number in layout]
    return np.flatnonzero(np.concatenate(whole)) if whole else np.arange(0)


def find_channels(model: keras.Model) -> ChannelMap:
    """Returns the channels of a model that must shrink together.

    Example:

    >>> layers = keras.layers
    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 3), name="image"),
    ...      layers.Conv2D(4, 3, name="a"), layers.DepthwiseConv2D(3),
    ...      layers.Conv2D(2, 3, name="b")]
    ... )
    >>> for each in find_channels(model).classes:
    ...     print(each.size, each.members, each.frozen)
    3 ('image',) the input 'image' of the model
    4 ('a/kernel',) None
    2 ('b/kernel',) the output of the model
    """
    paths = {id(k.variable): k.path for k in find_kernels(model)}
    axes = ChannelAxes(paths)
    own = _calls_of_their_own(model)
    if own is not None:
        _freeze_all(axes, model, own)
        return _numbered(axes)
    graph = read_graph(model)
    opaque: dict[int, str] = {}
    for name, tensor in zip(graph.names, tensors_in(graph.inputs), strict=True):
        layout = _new(axes, tensor)
        axes.segments.freeze(layout, f"the input {name!r} of the model")
        axes.segments.add_member(layout, name)
    for call in graph.calls:
        _follow(axes, call, opaque)
    for inner, tensors in graph.nested:
        _count_inputs(axes, inner, tensors)
    for tensor in tensors_in(graph.outputs):
        layout = axes.layouts[tensor.index]
        axes.segments.freeze(layout, "the output of the model")
    for variable, reason in opaque.items():
        for layout in axes.axes.get(variable, {}).values():
            axes.segments.freeze(layout, reason)
    return _numbered(axes)


def _calls_of_their_own(model: keras.Model) -> keras.Model | None:
    """A model whose class says how it computes, which no graph shows."""
    if not has_layer_list(model):
        return model
    for layer in all_layers(model):
        if has_layer_list(layer):
            owner = next(c for c in type(layer).__mro__ if "call" in vars(c))
            if owner.__module__.split(".")[0] != "keras":
                return layer
    return None


def _freeze_all(axes: ChannelAxes, model: keras.Model, own: Any) -> None:
    reason = f"{own.name!r} {reason_for('', own)}"
    layout = axes.segments.new(0)
    axes.segments.freeze(layout, reason)
    axes.axes[id(model)] = {0: layout}
    axes.segments.add_member(layout, own.name)


def _new(axes: ChannelAxes, tensor: Tensor) -> Layout:
    [size] = all_sizes([tensor])
    layout = () if size is None else axes.segments.new(size)
    return axes.layouts.setdefault(tensor.index, layout)


def _follow(axes: ChannelAxes, call: Call, opaque: dict[int, str]) -> None:
    """Gives the results of a call their channels, or freezes what it meets."""
    operation, kind = call.operation, kind_of(call.operation)
    is_layer = isinstance(operation, keras.Layer)
    rule = (LAYERS if is_layer else OPERATIONS).get(kind)
    layouts = [axes.layouts[tensor.index] for tensor in call.inputs]
    try:
        if rule is None:
            raise CannotShrink(reason_for(kind, operation))
        if any(size is None for size in all_sizes(call.results)):
            raise CannotShrink("returns no axis of channels")
        [result] = call.results
        layout = rule(axes, call, layouts)
        axes.layouts[result.index] = layout
    except CannotShrink as error:
        reason = f"{call.path!r} {error}"
        for layout in layouts:
            axes.segments.freeze(layout, reason)
        for tensor in call.results:
            layout = _new(axes, tensor)
            axes.segments.freeze(layout, reason)
        if is_layer:
            opaque |= {id(v): reason for v in operation.variables}
    else:
        if getattr(operation, "activity_regularizer", None) is not None:
            reason = f"{call.path!r} has an activity regularizer"
            axes.segments.freeze(layout, reason)


def _count_inputs(
    axes: ChannelAxes, model: keras.Model, tensors: tuple[Tensor, ...]
) -> None:
    """Notes the channels in the input shapes of a nested model."""
    # Of a Sequential, `layers` would leave out its InputLayer.
    inputs = {
        id(layer.output): layer
        for layer in keras.Model.layers.fget(model)
        if isinstance(layer, keras.layers.InputLayer)
    }
    for own, tensor in zip(model.inputs, tensors, strict=True):
        layout = axes.layouts[tensor.index]
        if tuple(own.shape[1:])[-1:] != (axes.segments.length(layout),):
            reason = f"{model.name!r} has an input of open or other size"
            axes.segments.freeze(layout, reason)
        else:
            axes.count(
                inputs[id(own)], "batch_shape", layout, len(own.shape) - 1
            )


def _numbered(axes: ChannelAxes) -> ChannelMap:
    """The classes in the order in which the weights meet them."""
    expand = axes.segments.expand
    found = {
        variable: {axis: expand(layout) for axis, layout in each.items()}
        for variable, each in axes.axes.items()
    }
    used = itertools.chain.from_iterable(
        layout for each in found.values() for layout in each.values()
    )
    numbers = {old: new for new, old in enumerate(dict.fromkeys(used))}

    def renumbered(layout: Layout) -> Layout:
        return tuple(numbers[number] for number in layout)

    return ChannelMap(
        classes=tuple(
            ChannelClass(
                axes.segments.size(number),
                axes.segments.reason(number),
                axes.segments.members(number),
            )
            for number in numbers
        ),
        axes=types.MappingProxyType(
            {
                variable: {a: renumbered(x) for a, x in each.items()}
                for variable, each in found.items()
            }
        ),
        reads=types.MappingProxyType(dict(axes.reads)),
        settings=tuple(
            dataclasses.replace(
                setting, layout=renumbered(expand(setting.layout))
            )
            for setting in axes.settings.values()
        ),
    )
