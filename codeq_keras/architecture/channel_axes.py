"""Notes which axes of which weights hold which channels of a model."""

import dataclasses
from typing import Any

import keras

from codeq_keras.architecture.calls import Call
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


class ChannelAxes:
    """The axes of weights that hold channels, as far as they are found.

    Attributes:
        segments: The channels.
        layouts: Those along the last axis of each tensor, by its index.
        axes: Those along the axes of each variable, by its id.
        reads: The axis of each kernel, by its id, that reads channels.
        settings: The entries of configs that count channels.
    """

    def __init__(self, paths: dict[int, str]) -> None:
        self.segments = Segments()
        self.layouts: dict[int, Layout] = {}
        self.axes: dict[int, dict[int, Layout]] = {}
        self.reads: dict[int, int] = {}
        self.settings: dict[tuple[int, str], Setting] = {}
        self._paths = paths

    def path(self, call: Call, variable: keras.Variable) -> str:
        """Returns the path of a weight of a layer."""
        return self._paths.get(id(variable), f"{call.path}/{variable.name}")

    def slice(
        self, variable: keras.Variable, axis: int, layout: Layout
    ) -> Layout:
        """Notes what lies along an axis; joins it with what is known of it."""
        known = self.axes.setdefault(id(variable), {})
        self.segments.join(known.setdefault(axis, layout), layout)
        return layout

    def read(self, kernel: keras.Variable, axis: int, layout: Layout) -> None:
        """Notes the axis of a kernel that reads channels."""
        self.slice(kernel, axis, layout)
        self.reads[id(kernel)] = axis

    def write(self, call: Call, kernel: keras.Variable, axis: int) -> Layout:
        """Returns the channels that a kernel writes, new ones at first."""
        known = self.axes.setdefault(id(kernel), {})
        if axis not in known:
            known[axis] = self.segments.new(kernel.shape[axis])
        self.segments.add_member(known[axis], self.path(call, kernel))
        return known[axis]

    def count(
        self, layer: Any, key: str, layout: Layout, position: int | None = None
    ) -> None:
        """Notes an entry of a config; joins it with what is known of it."""
        setting = Setting(layer, key, position, layout)
        known = self.settings.setdefault((id(layer), key), setting)
        self.segments.join(known.layout, layout)
