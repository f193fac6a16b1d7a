"""Rewrites a plain model so that its file is exact and runs everywhere.

Each rewrite works on a copy and computes the same function of the same
variables. Only the operators in the file differ.

A rewrite assigns the `__class__` of a layer: a subclass that overrides `call`
alone. That reaches every layer, also inside wrappers and in the code of
subclassed models. `clone_model` and a changed config do not.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import keras

from codeq_keras.deployment import all_layers, copy_model, find_kernels
from tflite_export.conversion.rewrites import (
    dense_as_convolution,
    normalization,
    recurrent,
    upsampling,
)


class Rewrite(NamedTuple):
    """A test of a layer, its change, and the note with the `{names}`."""

    applies: Callable[[keras.Layer], bool]
    apply: Callable[[keras.Layer], None]
    note: str
    # Only where a BatchNormalization was folded into the layer's codes.
    is_for_folded: bool = False


REWRITES = (
    Rewrite(
        recurrent.is_rolled,
        recurrent.unroll,
        "Recurrent layers {names} were unrolled: the converter cannot make "
        "integers of their loop.",
    ),
    Rewrite(
        recurrent.multiplies_by_slices,
        recurrent.multiply_whole,
        "Recurrent cells {names} multiply by whole kernels: their slices, for "
        "`recurrent_dropout`, would be no tensors of the file.",
    ),
    Rewrite(
        normalization.negates,
        normalization.without_negation,
        "Normalizations {names} were written without a negation: LiteRT "
        "negates in float only.",
    ),
    Rewrite(
        upsampling.is_nearest,
        upsampling.as_resize,
        "UpSampling2D layers {names} became RESIZE_NEAREST_NEIGHBOR: not every "
        "target has the TILE that the converter makes of them.",
    ),
    Rewrite(
        dense_as_convolution.contracts_last_axes,
        dense_as_convolution.as_convolution,
        "Dense layers {names} became 1x1 convolutions: the converter would "
        "fold the BatchNormalization in front into their integers.",
        is_for_folded=True,
    ),
)


class RewrittenModel(NamedTuple):
    """A model to convert, and a note for each kind of change in it."""

    model: keras.Model
    notes: list[str]


def rewrite(plain: keras.Model, folded: Collection[str] = ()) -> RewrittenModel:
    """Returns a rewritten copy, or `plain` itself if there is nothing to do.

    `folded` are the paths of kernels with a folded BatchNormalization.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3, 4)), keras.layers.GRU(2, name="gru")]
    ... )
    >>> rewrite(model).notes
    ["Recurrent layers ['gru'] were unrolled: the converter cannot make \
integers of their loop."]
    """
    if not any(layers for _, layers in _applicable(plain, folded)):
        return RewrittenModel(plain, [])
    copy = copy_model(plain)
    notes = []
    for change, layers in _applicable(copy, folded):
        for layer in layers:
            change.apply(layer)
        if layers:
            names = list(dict.fromkeys(layer.name for layer in layers))
            notes.append(change.note.format(names=names))
    return RewrittenModel(copy, notes)


def _applicable(
    model: keras.Model, folded: Collection[str]
) -> list[tuple[Rewrite, list[keras.Layer]]]:
    """The layers that each rewrite changes, shared ones once."""
    unique = {id(layer): layer for layer in all_layers(model)}
    kernels = find_kernels(model) if folded else []
    holders = {id(k.layer) for k in kernels if k.path in folded}
    return [
        (
            change,
            [
                layer
                for key, layer in unique.items()
                if (key in holders or not change.is_for_folded)
                and change.applies(layer)
            ],
        )
        for change in REWRITES
    ]
