"""Notes which axes of which weights hold which channels of a model."""

import dataclasses
from typing import Any

import keras

from codeq_keras.architecture.calls import Call, Tensor
from codeq_keras.architecture.segments import Layout, Segments


@dataclasses.dataclass(frozen=True)
class Setting:
    """An entry of a layer's config that holds a number of channels.

    Attributes:
        layer: The layer.
        key: The entry, such as "filters" or "target_shape".
        position: The place in the entry if that is a list; None for a number.
        layout: The channels that it counts.
    """

    layer: keras.Layer
    key: str
    position: int | None
    layout: Layout


class CannotShrink(Exception):
    """The channels that an operation reads and returns must stay: why."""


def require(condition: bool, reason: str) -> None:
    """Raises `CannotShrink` unless a condition holds."""
    if not condition:
        raise CannotShrink(reason)


def only_tensor(call: Call) -> Tensor:
    """Returns the tensor that is read, if it is one, with its channels last."""
    is_one = len(call.inputs) == 1 and bool(call.args)
    require(
        is_one and isinstance(call.args[0], Tensor),
        "is called on more than one tensor",
    )
    if hasattr(call.operation, "data_format"):
        default = keras.config.image_data_format()
        used = call.operation.data_format or default
        require(used == "channels_last", "has its channels first")
    return call.args[0]


def weights_of(call: Call) -> dict[str, keras.Variable]:
    """Returns the weights of a layer by name."""
    return {variable.name: variable for variable in call.operation.weights}


def is_last(axis: int, rank: int) -> bool:
    """Whether an axis, negative from the end, is the last of `rank` axes."""
    return axis % rank == rank - 1


def num_channels(tensor: Tensor) -> int | None:
    """Returns the length of the last axis; None if open, or of the batch."""
    return tensor.shape[-1] if len(tensor.shape) > 1 else None


class ChannelAxes:
    """The axes of weights that hold channels, as far as they are found.

    Attributes:
        segments: The channels.
        layouts: Those along the last axis of each tensor, by its index.
        axes: Those along the axes of each variable, by its id.
        reads: The axis of each kernel, by its id, that reads channels.
        settings: The entries of configs that count channels.
        opaque: Why the channels of variables must stay, by their ids.
        met: All layouts that kernels read or write, in the order of the calls.
    """

    def __init__(self, paths: dict[int, str]) -> None:
        self.segments = Segments()
        self.layouts: dict[int, Layout] = {}
        self.axes: dict[int, dict[int, Layout]] = {}
        self.reads: dict[int, int] = {}
        self.settings: dict[tuple[int, str], Setting] = {}
        self.met: list[Layout] = []
        self.opaque: dict[int, str] = {}
        self._paths = paths

    def new(self, tensor: Tensor) -> Layout:
        """Gives a tensor channels of its own; none if their number is open."""
        size = num_channels(tensor)
        layout = () if size is None else self.segments.new(size)
        return self.layouts.setdefault(tensor.index, layout)

    def kernel_paths(self, layer: Any) -> list[str]:
        """Returns the paths of the kernels in an operation."""
        variables = getattr(layer, "variables", ())
        paths = [self._paths.get(id(variable)) for variable in variables]
        return [path for path in paths if path is not None]

    def slice(
        self, variable: keras.Variable, axis: int, layout: Layout
    ) -> Layout:
        """Notes what lies along an axis; joins it with what is known of it."""
        known = self.axes.setdefault(id(variable), {})
        self.segments.join(known.setdefault(axis, layout), layout)
        self.met.append(layout)
        return layout

    def read(self, kernel: keras.Variable, axis: int, layout: Layout) -> None:
        """Notes the axis of a kernel that reads channels."""
        known = self.reads.setdefault(id(kernel), axis)
        require(known == axis, "shares a kernel that reads along another axis")
        self.slice(kernel, axis, layout)

    def write(self, call: Call, kernel: keras.Variable, axis: int) -> Layout:
        """Returns the channels that a kernel writes, new ones at first."""
        known = self.axes.setdefault(id(kernel), {})
        if axis not in known:
            known[axis] = self.segments.new(kernel.shape[axis])
        path = self._paths.get(id(kernel), f"{call.path}/{kernel.name}")
        self.segments.add_member(known[axis], path)
        self.met.append(known[axis])
        return known[axis]

    def count(
        self, layer: Any, key: str, layout: Layout, position: int | None = None
    ) -> None:
        """Notes an entry of a config; joins it with what is known of it."""
        setting = Setting(layer, key, position, layout)
        known = self.settings.setdefault((id(layer), key), setting)
        self.segments.join(known.layout, layout)
