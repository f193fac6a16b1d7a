"""Rewrites a stripped model so that its file can be exact and all-integer.

Each computes the same function with the same variables; only the operators
that the converter makes of it differ. They work on a copy:

- `recurrent`: loops over time steps are written out;
- `normalization`: LayerNormalization and GroupNormalization without the
  negation that stays float;
- `dense_as_convolution`: Dense behind a BatchNormalization as a convolution.

A copy's layer gets its new behaviour by assigning its `__class__`, a subclass
that overrides `call` alone. That reaches every layer: those inside wrappers,
and those that a subclassed model creates in its own code, where neither
`clone_model` nor a changed config gets.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from codeq_keras.architecture import copy_model
from codeq_keras.kernels import all_layers
from tflite_export.rewrites import (
    dense_as_convolution,
    normalization,
    recurrent,
)


class Rewritten(NamedTuple):
    """A model to convert, and what was changed in it, for the user."""

    model: keras.Model
    notes: list[str]


def rewrite(stripped: keras.Model) -> Rewritten:
    """Rewrites what the converter is known to crash on or to leave in float.

    Args:
        stripped: Model without quantizers; it is not changed.

    Returns:
        A copy with a note for each kind of change; `stripped` itself if there
        was nothing to change.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3, 4)), keras.layers.GRU(2, name="gru")]
    ... )
    >>> rewrite(model).notes
    ["Recurrent layers ['gru'] were unrolled: the converter cannot make \
integers of their loop."]
    """
    rewrites = (recurrent, normalization)
    if not any(
        module.applies(layer)
        for layer in all_layers(stripped)
        for module in rewrites
    ):
        return Rewritten(stripped, [])
    copy = copy_model(stripped)
    notes = []
    for module in rewrites:
        found = [layer for layer in _layers(copy) if module.applies(layer)]
        for layer in found:
            module.apply(layer)
        if found:
            names = list(dict.fromkeys(layer.name for layer in found))
            notes.append(module.note(names))
    return Rewritten(copy, notes)


def keep_input_gains_apart(
    model: keras.Model, kernels: Sequence[np.ndarray]
) -> Rewritten:
    """Rewrites the Dense layers that a BatchNormalization was folded into.

    Args:
        model: Model without quantizers; it is not changed.
        kernels: The values of the layers' kernels. Layers are known by them,
            since neither names nor paths are unique.

    Returns:
        A copy in which those of them that can be are convolutions, and a note.
    """
    copy = copy_model(model)
    _carry_over_rewrites(model, copy)
    names = []
    for layer in _layers(copy):
        if not dense_as_convolution.applies(layer):
            continue
        values = np.asarray(layer.kernel)
        if any(
            kernel.shape == values.shape
            and np.allclose(kernel, values, rtol=1e-5, atol=0)
            for kernel in kernels
        ):
            dense_as_convolution.apply(layer)
            names.append(layer.name)
    notes = [dense_as_convolution.note(names)] if names else []
    return Rewritten(copy, notes)


def _carry_over_rewrites(model: keras.Model, copy: keras.Model) -> None:
    """The config of a layer knows nothing of its rewritten class."""
    pairs = zip(all_layers(model), all_layers(copy), strict=True)
    for source, target in pairs:
        if type(source) is not type(target):
            target.__class__ = type(source)


def _layers(model: keras.Model) -> list[keras.Layer]:
    """All layers once, shared ones included."""
    unique = {id(layer): layer for layer in all_layers(model)}
    return list(unique.values())
