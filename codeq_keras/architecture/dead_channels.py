"""Finds the channels of a plain model that no output depends on."""

from collections.abc import Mapping

import keras
import numpy as np
from keras import ops

from codeq_keras.architecture.calls import read_graph
from codeq_keras.architecture.channels import ChannelMap, find_channels
from codeq_keras.architecture.copying import require_model
from codeq_keras.architecture.narrowing import narrow_model
from codeq_keras.architecture.segments import Layout
from codeq_keras.architecture.visits import has_layer_list
from codeq_keras.architecture.zero_values import find_zero_reads


def without_dead_channels(model: keras.Model) -> keras.Model:
    """Returns a copy without the channels that no output depends on."""
    require_model(model)
    if not has_layer_list(model) or not model.built:
        raise ValueError(
            "Expected a built Sequential or functional model, whose graph is "
            f"known. Received: {model.name!r}, a {type(model).__name__}. Make "
            "it functional: `keras.Model(inputs, outputs)` from `keras.Input` "
            "on, with the layers of the model."
        )
    channels = find_channels(model)
    return narrow_model(model, channels, dead_channels(model, channels))


def dead_channels(
    model: keras.Model, channels: ChannelMap
) -> dict[int, np.ndarray]:
    """Returns the channels to keep of each class that has dead ones.

    A channel is dead if each kernel that reads it does so with zeros, or
    reads zeros there. Of a class without any other, one stays.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)]
    ... )
    >>> model.layers[1].kernel.assign([[1, 1], [0, 0], [0, 1]])
    >>> [kept] = dead_channels(model, find_channels(model)).values()
    >>> kept
    array([0, 2])
    """
    readers = _readers(model, channels)
    alive: dict[int, np.ndarray] = {
        number: np.ones(each.size, bool)
        for number, each in enumerate(channels.classes)
    }
    changed = True
    while changed:
        used = {number: np.zeros_like(flags) for number, flags in alive.items()}
        for reader in readers:
            reader.mark(used, alive)
        for number, each in enumerate(channels.classes):
            if each.frozen is not None:
                used[number][:] = True
        changed = any(
            not np.array_equal(used[number], alive[number]) for number in alive
        )
        alive = used
    # Of a class that is dead as a whole, any channel: its value has no effect.
    kept = {
        number: np.flatnonzero(flags) if flags.any() else np.array([0])
        for number, flags in alive.items()
    }
    return {
        number: channels_left
        for number, channels_left in kept.items()
        if len(channels_left) < channels.sizes[number]
    }


class _Reader:
    """Where a kernel reads, and which of its weights are not zero."""

    def __init__(
        self,
        is_used: np.ndarray,
        axes: Mapping[int, Layout],
        axis: int,
    ) -> None:
        self._is_used = is_used
        self._others = {k: layout for k, layout in axes.items() if k != axis}
        self._layout = axes[axis]
        self._axis = axis

    def mark(
        self, used: dict[int, np.ndarray], alive: Mapping[int, np.ndarray]
    ) -> None:
        """Notes in `used` the channels that outputs still alive depend on."""
        is_used = self._is_used
        for axis, layout in self._others.items():
            stays = np.concatenate([alive[number] for number in layout])
            is_used = np.compress(stays, is_used, axis)
        others = tuple(i for i in range(is_used.ndim) if i != self._axis)
        positions = np.any(is_used, axis=others)
        first = 0
        for number in self._layout:
            size = len(used[number])
            used[number] |= positions[first : first + size]
            first += size


def _readers(model: keras.Model, channels: ChannelMap) -> list[_Reader]:
    zero_reads = find_zero_reads(read_graph(model))
    readers = []
    for variable in model.variables:
        axis = channels.reads.get(id(variable))
        if axis is None:
            continue
        is_used = ops.convert_to_numpy(variable) != 0
        zeros = zero_reads.get(id(variable))
        if zeros is not None and len(zeros) == is_used.shape[axis]:
            shape = [-1 if i == axis else 1 for i in range(is_used.ndim)]
            is_used = is_used & ~zeros.reshape(shape)
        axes = channels.axes[id(variable)]
        readers.append(_Reader(_reduced(is_used, axes), axes, axis))
    return readers


def _reduced(is_used: np.ndarray, axes: Mapping[int, Layout]) -> np.ndarray:
    """Any of the axes that number no channels; such axes get length 1."""
    others = tuple(i for i in range(is_used.ndim) if i not in axes)
    reduced: np.ndarray = np.any(is_used, axis=others, keepdims=True)
    return reduced
