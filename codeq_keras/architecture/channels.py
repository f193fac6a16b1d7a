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

import keras
import numpy as np

from codeq_keras.architecture.calls import (
    Call,
    Tensor,
    read_graph,
    tensors_in,
)
from codeq_keras.architecture.channel_axes import (
    CannotShrink,
    ChannelAxes,
    Setting,
    num_channels,
    require,
)
from codeq_keras.architecture.channel_rules import own_call, rule_for
from codeq_keras.architecture.kernels import find_kernels
from codeq_keras.architecture.segments import Layout
from codeq_keras.architecture.visits import all_layers, has_layer_list

# The reason of inputs and outputs ends so.
_OF_THE_MODEL = " of the model"


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

    @property
    def is_at_end(self) -> bool:
        """Whether it stays because the model's own shapes have it."""
        return (self.frozen or "").endswith(_OF_THE_MODEL)


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
    classes: np.ndarray = np.repeat(np.array(layout, dtype=int), lengths)
    starts: np.ndarray = np.repeat(np.cumsum(lengths) - lengths, lengths)
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
    classes, channels = channel_positions(layout, sizes)
    stays: np.ndarray = np.ones(len(classes), bool)
    for number in kept.keys() & set(layout):
        is_of_class = classes == number
        stays[is_of_class] = np.isin(channels[is_of_class], kept[number])
    return np.flatnonzero(stays)


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
    axes = ChannelAxes({id(k.variable): k.path for k in find_kernels(model)})
    subclassed = _subclassed(model)
    if subclassed is not None:
        _freeze_whole(axes, model, subclassed)
        return _numbered(axes)
    graph = read_graph(model)
    for name, tensor in zip(graph.names, tensors_in(graph.inputs), strict=True):
        layout = axes.new(tensor)
        axes.segments.freeze(layout, f"the input {name!r}{_OF_THE_MODEL}")
        axes.segments.add_member(layout, name)
    for call in graph.calls:
        _follow(axes, call)
    for inner, tensors in graph.nested:
        _count_inputs(axes, inner, tensors)
    for tensor in tensors_in(graph.outputs):
        axes.segments.freeze(
            axes.layouts[tensor.index], f"the output{_OF_THE_MODEL}"
        )
    for variable, reason in axes.opaque.items():
        for layout in axes.axes.get(variable, {}).values():
            axes.segments.freeze(layout, reason)
    return _numbered(axes)


def _subclassed(model: keras.Model) -> keras.Model | None:
    """A model whose class says how it computes, which no graph shows."""
    if not has_layer_list(model):
        return model
    for layer in all_layers(model):
        if has_layer_list(layer):
            owner = next(c for c in type(layer).__mro__ if "call" in vars(c))
            if owner.__module__.split(".")[0] != "keras":
                return layer
    return None


def _freeze_whole(
    axes: ChannelAxes, model: keras.Model, subclassed: keras.Model
) -> None:
    layout = axes.segments.new(0)
    reason = f"{subclassed.name!r} {own_call(subclassed)}"
    axes.segments.freeze(layout, reason)
    for path in axes.kernel_paths(model):
        axes.segments.add_member(layout, path)
    axes.met.append(layout)


def _follow(axes: ChannelAxes, call: Call) -> None:
    """Gives the results of a call their channels, or freezes what it meets."""
    layouts = [axes.layouts[tensor.index] for tensor in call.inputs]
    try:
        rule = rule_for(call.operation)
        [result] = call.results
        require(num_channels(result) is not None, "returns an open last axis")
        layout = rule(axes, call, layouts)
        axes.layouts[result.index] = layout
        _require_whole(axes, call, result, layout)
    except CannotShrink as error:
        _freeze(axes, call, f"{call.path!r} {error}")
        return
    if getattr(call.operation, "activity_regularizer", None) is not None:
        reason = f"{call.path!r} has an activity regularizer"
        axes.segments.freeze(layout, reason)


def _require_whole(
    axes: ChannelAxes, call: Call, result: Tensor, layout: Layout
) -> None:
    """Raises unless a rule accounted for all weights and all channels."""
    is_whole = axes.segments.length(layout) == num_channels(result)
    require(is_whole, "returns channels that are not known")
    for variable in getattr(call.operation, "weights", ()):
        shape = tuple(variable.shape)
        is_known = id(variable) in axes.axes or shape[-1:] in ((), (1,))
        require(is_known, f"has a weight {variable.name!r} of its own")


def _freeze(axes: ChannelAxes, call: Call, reason: str) -> None:
    paths = axes.kernel_paths(call.operation)
    for tensor in call.inputs:
        axes.segments.freeze(axes.layouts[tensor.index], reason)
        if paths:
            axes.met.append(axes.layouts[tensor.index])
    for tensor in call.results:
        layout = axes.new(tensor)
        axes.segments.freeze(layout, reason)
        if paths:
            axes.met.append(layout)
        for path in paths:
            axes.segments.add_member(layout, path)
    for variable in getattr(call.operation, "variables", ()):
        axes.opaque.setdefault(id(variable), reason)


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
    used = set(itertools.chain.from_iterable(map(expand, axes.met)))
    # Others count channels that must stay, as of an output without kernels.
    settings = [
        setting
        for setting in axes.settings.values()
        if used & set(expand(setting.layout))
    ]
    layouts = [*axes.met, *(setting.layout for setting in settings)]
    order = itertools.chain.from_iterable(map(expand, layouts))
    numbers = {old: new for new, old in enumerate(dict.fromkeys(order))}
    read = {n for v, axis in axes.reads.items() for n in found[v][axis]}
    for number in numbers.keys() - read:
        axes.segments.freeze((number,), "no kernel reads it")

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
            for setting in settings
        ),
    )
