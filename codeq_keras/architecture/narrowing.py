"""Copies a model with some of its channels left out.

Decides nothing about which: `dead_channels` does.
"""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.channels import ChannelMap, kept_positions
from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.visits import all_layers, has_layer_list

# Class number -> sorted channels that stay; a class without entry keeps all.
Kept = Mapping[int, np.ndarray]


def narrow_model(
    model: keras.Model, channels: ChannelMap, kept: Kept
) -> keras.Model:
    """Returns a copy in which each class has only the channels of `kept`.

    `channels` is that of `find_channels(model)`. Names, paths, types and what
    is frozen are those of `model`, which is not changed.

    Example:

    >>> from codeq_keras.architecture.channels import find_channels
    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)]
    ... )
    >>> channels = find_channels(model)
    >>> [free] = channels.free
    >>> small = narrow_model(model, channels, {free: np.array([0, 5])})
    >>> [tuple(weight.shape) for weight in small.weights]
    [(4, 2), (2,), (2, 3), (3,)]
    """
    require_channels_of(model, channels)
    require_kept(channels, kept)
    rewriting = _Rewriting(channels, kept)
    return copy_model(
        model,
        lambda config: rewriting.of_layer(config, model),
        lambda variable: narrowed(
            channels, ops.convert_to_numpy(variable), variable, kept
        ),
    )


def narrowed(
    channels: ChannelMap,
    values: np.ndarray,
    variable: keras.Variable,
    kept: Kept,
) -> np.ndarray:
    """Returns the values, as of a variable, at the channels that stay.

    `values` has the shape of the variable, or broadcasts to it.
    """
    for axis, layout in channels.axes.get(id(variable), {}).items():
        if values.ndim and values.shape[axis] > 1 and kept.keys() & set(layout):
            positions = kept_positions(layout, kept, channels.sizes)
            values = np.take(values, positions, axis)
    return values


def require_channels_of(model: keras.Model, channels: ChannelMap) -> None:
    """Raises a ValueError for the channels of another model."""
    own = {id(each) for each in (model, *model.variables)}
    if not channels.axes.keys() <= own:
        raise ValueError(
            "Expected the channels of the model that is narrowed. Received: "
            f"those of another than {model.name!r}. Call `find_channels` on "
            "this very model; a copy has variables of its own."
        )


def require_kept(channels: ChannelMap, kept: Kept) -> None:
    """Raises a ValueError for channels that cannot be all that is kept."""
    for number, stay in kept.items():
        if number not in range(len(channels.classes)):
            raise ValueError(
                "Expected numbers of classes from 0 to "
                f"{len(channels.classes) - 1}. Received: kept={{{number!r}: "
                "...}."
            )
        found, stay = channels.classes[number], np.asarray(stay)
        name = f"class {number} ({', '.join(found.members)})"
        received = f"Received: kept={{{number}: {_short(stay)}}}."
        if stay.size == 0:
            raise ValueError(
                f"Expected at least one channel to keep of {name}. {received}"
            )
        if (
            stay.ndim != 1
            or not np.issubdtype(stay.dtype, np.integer)
            or np.any(np.diff(stay) <= 0)
            or not 0 <= stay[0] <= stay[-1] < found.size
        ):
            raise ValueError(
                f"Expected channels of {name} as sorted integers from 0 to "
                f"{found.size - 1}, each once. {received}"
            )
        if found.frozen is not None and stay.size < found.size:
            raise ValueError(
                f"Expected all {found.size} channels of {name}, which cannot "
                f"shrink: {found.frozen}. {received}"
            )


def _short(stay: np.ndarray) -> str:
    return np.array2string(stay, threshold=8, separator=", ")


class _Rewriting:
    """Rewrites the configs of layers for the channels that stay."""

    def __init__(self, channels: ChannelMap, kept: Kept) -> None:
        self._settings: dict[int, list[tuple[str, int | None, int]]] = {}
        for each in channels.settings:
            if kept.keys() & set(each.layout):
                size = len(kept_positions(each.layout, kept, channels.sizes))
                entry = each.key, each.position, size
                self._settings.setdefault(id(each.layer), []).append(entry)
        self._sliced = {
            variable
            for variable, axes in channels.axes.items()
            if kept.keys() & {n for layout in axes.values() for n in layout}
        }

    def of_layer(
        self, config: dict[str, Any], layer: keras.Layer
    ) -> dict[str, Any]:
        """The config of a layer or model in the narrow model."""
        if self._keeps_all(layer):
            return config
        # The first call builds it, for the shape that is right then. A model
        # in a model builds itself from its inputs.
        rewritten = {k: v for k, v in config.items() if k != "build_config"}
        inner = dict(config["config"])
        for key, position, size in self._settings.get(id(layer), ()):
            inner[key] = _replaced(inner[key], position, size)
        inner = self._of_children(inner, _children(layer))
        if isinstance(layer, keras.Sequential) and inner["layers"]:
            first = inner["layers"][0]["config"]
            if "build_input_shape" in inner and "batch_shape" in first:
                inner["build_input_shape"] = first["batch_shape"]
        return {**rewritten, "config": inner}

    def _keeps_all(self, layer: keras.Layer) -> bool:
        """Whether it has weights, all of which stay as they are."""
        inside = list(all_layers(layer))
        return (
            bool(layer.weights)
            and not any(id(each) in self._sliced for each in layer.weights)
            and not any(id(each) in self._settings for each in inside)
        )

    def _of_children(
        self, value: Any, children: Mapping[str, keras.Layer]
    ) -> Any:
        """The value with the configs of layers in it rewritten."""
        if isinstance(value, list | tuple):
            return type(value)(self._of_children(v, children) for v in value)
        if not isinstance(value, dict):
            return value
        inner = value.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        child = children.get(name) if isinstance(name, str) else None
        # A dtype policy has a name in its config as well.
        if type(child).__name__ == value.get("class_name"):
            return self.of_layer(value, child)
        return {k: self._of_children(v, children) for k, v in value.items()}


def _children(layer: keras.Layer) -> dict[str, keras.Layer]:
    """The layers inside a layer, by the names in its config."""
    if has_layer_list(layer):
        # Of a Sequential, `layers` would leave out its InputLayer.
        inside = keras.Model.layers.fget(layer)
    else:
        inside = list(all_layers(layer))[1:]
    return {each.name: each for each in inside}


def _replaced(value: Any, position: int | None, size: int) -> Any:
    """The entry of a config with a number of channels replaced."""
    if position is None:
        return size
    sizes = list(value)
    return [*sizes[:position], size, *sizes[position + 1 :]]
