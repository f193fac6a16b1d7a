"""Rewrites a stripped model so that its file is exact and runs everywhere.

Each computes the same function with the same variables; only the operators
that the converter makes of it differ. They work on a copy:

- `recurrent`: loops over time steps are written out;
- `normalization`: LayerNormalization and GroupNormalization without the
  negation that stays float;
- `upsampling`: nearest UpSampling2D as one operator;
- `dense_as_convolution`: Dense behind a BatchNormalization as a convolution.

A copy's layer gets its new behaviour by assigning its `__class__`, a subclass
that overrides `call` alone. That reaches every layer: those inside wrappers,
and those that a subclassed model creates in its own code, where neither
`clone_model` nor a changed config gets.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from codeq_keras.architecture.copying import copy_model
from codeq_keras.architecture.kernels import all_layers
from tflite_export.conversion.rewrites import (
    dense_as_convolution,
    normalization,
    recurrent,
    upsampling,
)


class Rewritten(NamedTuple):
    """A model to convert, and what was changed in it, for the user."""

    model: keras.Model
    notes: list[str]


def rewrite(
    stripped: keras.Model, folded: Sequence[np.ndarray] = ()
) -> Rewritten:
    """Rewrites what the converter spoils, or no target but one would run.

    Args:
        stripped: Model without quantizers; it is not changed.
        folded: The values of kernels that a BatchNormalization was folded into.
            Layers are known by them, since neither names nor paths are unique.

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
    if not _applicable(stripped, folded):
        return Rewritten(stripped, [])
    copy = copy_model(stripped)
    notes = []
    for module, found in _applicable(copy, folded).items():
        for layer in found:
            module.apply(layer)
        names = list(dict.fromkeys(layer.name for layer in found))
        notes.append(module.note(names))
    return Rewritten(copy, notes)


def _applicable(
    model: keras.Model, folded: Sequence[np.ndarray]
) -> dict[Any, list[keras.Layer]]:
    """The layers to change by module, shared ones once."""
    unique = {id(layer): layer for layer in all_layers(model)}.values()
    found = {
        module: [layer for layer in unique if module.applies(layer)]
        for module in (recurrent, normalization, upsampling)
    }
    found[dense_as_convolution] = [
        layer
        for layer in unique
        if dense_as_convolution.applies(layer) and _has_any(layer, folded)
    ]
    return {module: layers for module, layers in found.items() if layers}


def _has_any(layer: keras.Layer, kernels: Sequence[np.ndarray]) -> bool:
    values = np.asarray(layer.kernel)
    return any(
        kernel.shape == values.shape
        and np.allclose(kernel, values, rtol=1e-5, atol=0)
        for kernel in kernels
    )
