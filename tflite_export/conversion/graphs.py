"""Makes a model a function for the converter, with its trained ranges."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from codeq_keras.deployment import (
    ActivationRange,
    RangedModel,
    copy_model,
    find_kernels,
)
from tflite_export.samples import pack_inputs
from tflite_export.trained_model import TrainedModel

# Kernels of ADD and SUB shift terms by 20 bits, twice the largest scale
# included, and abort where that is not enough. A factor of 2 is to spare.
MAX_RATIO_IN_SUMS = 2**18


class Graph(NamedTuple):
    """A function of one tensor per input, and the variables that it reads.

    It returns the outputs by their names in the file. `lacks_ranges` says
    whether some of its activations have no range.
    """

    function: Callable[..., dict[str, Any]]
    variables: Sequence[Any]
    lacks_ranges: bool = True


def trained_graph(trained: TrainedModel, plain: Any) -> tuple[Graph, list[str]]:
    """Returns a plain model as a graph with the trained ranges, and notes."""
    if trained.ranges:
        plain = with_uneven_biases(plain)
        ranged = ranged_model(trained, plain)
        _require_ranges_for_kernels(ranged, trained)
        notes = _range_notes(ranged, trained)
        usable = usable_ranges(trained.ranges, ranged.sums)
        if usable != trained.ranges:
            ranged = RangedModel(plain, usable, _as_one_operator)
        return _ranged_graph(ranged), notes
    return inference_graph(plain), []


def inference_graph(model: Any) -> Graph:
    """Returns a model of Keras or `tf_keras` as a graph."""

    def predict(*values: Any) -> dict[str, Any]:
        outputs = model(pack_inputs(model, values), training=False)
        return named_outputs(outputs)

    return Graph(predict, model.variables)


def named_outputs(outputs: Any) -> dict[str, Any]:
    """Returns the values of a structure of outputs by their names in the file.

    A dict gives its keys, joined where dicts are nested. All other outputs are
    `output_0`, `output_1`, ..., in their order.

    Example:

    >>> named_outputs({"p16": 1, "p8": {"box": 2, "score": 3}})
    {'p16': 1, 'p8/box': 2, 'p8/score': 3}
    >>> named_outputs([4, 5])
    {'output_0': 4, 'output_1': 5}
    """
    paths, values = zip(*keras.tree.flatten_with_path(outputs), strict=True)
    names = ["/".join(map(str, path)) for path in paths]
    if not isinstance(outputs, Mapping) or len(set(names)) < len(names):
        names = [f"output_{index}" for index in range(len(values))]
    return dict(zip(names, values, strict=True))


def with_uneven_biases(plain: keras.Model) -> keras.Model:
    """Returns a copy without biases of one number; `plain` if it has none.

    With trained ranges the converter gives such a bias the scale of the first
    channel in all channels. One float32 step in one channel prevents it.
    """
    if not any(map(_is_even, plain.weights)):
        return plain
    copy = copy_model(plain)
    for bias in filter(_is_even, copy.weights):
        values = np.array(bias)
        values[0] = np.nextafter(values[0], np.float32(0))
        bias.assign(values)
    return copy


def _is_even(variable: Any) -> bool:
    """Whether this is a bias of one number, not zero, in all channels."""
    if variable.name != "bias" or len(variable.shape) == 0:
        return False
    values = np.asarray(variable)
    return bool(values.ravel()[0] != 0 and np.ptp(values) == 0)


def _ranged_graph(model: RangedModel) -> Graph:
    """Returns a model with ranges as a graph, without AutoGraph."""
    import tensorflow as tf

    def outputs(*values: Any) -> dict[str, Any]:
        return named_outputs(model(*values))

    function = tf.autograph.experimental.do_not_convert(outputs)
    lacks_ranges = bool(model.inner or model.unseen)
    return Graph(function, model.variables, lacks_ranges)


def ranged_model(trained: TrainedModel, plain: keras.Model) -> RangedModel:
    """Returns a plain model, or its rewritten copy, with the trained ranges."""
    return RangedModel(plain, trained.ranges, _as_one_operator)


def _require_ranges_for_kernels(
    ranged: RangedModel, trained: TrainedModel
) -> None:
    """Raises a ValueError if a kernel's layer has ranges inside and no samples.

    Without samples such a layer is in float in the file, its weights too.
    """
    kernels = find_kernels(trained.plain)
    hidden = [
        path
        for path in ranged.inner
        if any(k.path.startswith(f"{path}/") for k in kernels)
    ]
    if hidden and trained.samples is None:
        raise ValueError(
            "`representative_dataset` must hold inputs as in training: "
            "the ranges of activations inside of layers are measured on "
            f"them. Received: None, and weights inside of {hidden}."
        )


def usable_ranges(
    ranges: Mapping[str, ActivationRange | None],
    sums: Sequence[tuple[list[str], str]],
) -> dict[str, ActivationRange | None]:
    """Returns ranges with which runtimes can compute the sums.

    They abort where a term has a far larger scale than the sum. A term that was
    always zero gets a smaller one; another term is a ValueError.
    """
    usable = dict(ranges)
    for terms, result in sums:
        held = ranges.get(result)
        if held is None:
            continue
        for path in terms:
            term = usable.get(path)
            if term is None or term.scale < held.scale * MAX_RATIO_IN_SUMS:
                continue
            if not term.is_dead:
                raise ValueError(
                    f"The range of {path!r} must be less than "
                    f"{MAX_RATIO_IN_SUMS:,} times that of the sum {result!r} "
                    "that reads it: runtimes abort otherwise. Received: steps "
                    f"of {term.scale:.1e} and {held.scale:.1e}. The sum is "
                    "nearly always zero: train on with a smaller budget, or "
                    "check the statistics of the BatchNormalization before it."
                )
            # Not less than needed: what reads it has a bias in its steps.
            scale = held.scale * MAX_RATIO_IN_SUMS / 2
            usable[path] = dataclasses.replace(term, scale=scale)
    return usable


def _range_notes(ranged: RangedModel, trained: TrainedModel) -> list[str]:
    """Returns notes on ranges that are missing or shared."""
    notes = []
    if ranged.unseen:
        notes.append(
            f"These activations saw no batch in training: {ranged.unseen}."
        )
    if ranged.dead:
        notes.append(
            "These activations were always zero in training, so their layers "
            f"do nothing: {ranged.dead}. Any range fits them. Check the "
            "statistics of the BatchNormalizations, or allow more bits."
        )
    if ranged.joined_to_prescribed:
        notes.append(
            "The file computes the inputs of these layers in the range of the "
            "sigmoid, softmax or tanh among them, and clips the rest: "
            f"{ranged.joined_to_prescribed}."
        )
    if ranged.inner and trained.samples is not None:
        notes.append(
            "The ranges inside of these layers were measured on the "
            f"representative dataset, not trained: {ranged.inner}."
        )
    elif ranged.inner:
        notes.append(
            f"The ranges inside of these layers are not trained: "
            f"{ranged.inner}. Give `representative_dataset` to measure "
            "them; without it, such operators stay in float."
        )
    return notes


def affine_coefficients(layer: Any) -> tuple[Any, Any] | None:
    """Returns gain and offset of a layer that computes `gain * x + offset`.

    Example:

    >>> affine_coefficients(keras.layers.Rescaling(0.5, offset=-1.0))
    (array(0.5, dtype=float32), array(-1., dtype=float32))
    """
    kind = type(layer)
    if kind is keras.layers.Rescaling:
        values = (layer.scale, layer.offset)
        gain, offset = (np.asarray(value, np.float32) for value in values)
        return gain, offset
    if kind is keras.layers.Normalization:
        return _normalization_coefficients(layer)
    if kind is not keras.layers.BatchNormalization:
        return None
    if layer.axis not in (-1, layer.input_spec.ndim - 1):
        return None
    gain = 1 / np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        gain = gain * np.asarray(layer.gamma)
    offset = -np.asarray(layer.moving_mean) * gain
    if layer.center:
        offset = offset + np.asarray(layer.beta)
    return gain, offset


def _normalization_coefficients(layer: Any) -> tuple[Any, Any] | None:
    mean, variance = (np.asarray(v) for v in (layer.mean, layer.variance))
    if mean.size != mean.shape[-1]:
        return None  # For instance one value a pixel.
    deviation = np.maximum(np.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        gain, offset = deviation, mean
    else:
        gain, offset = 1 / deviation, -mean / deviation
    return gain.reshape(-1), offset.reshape(-1)


def _as_one_operator(
    operation: Any, channels: int
) -> Callable[[Any], Any] | None:
    """`gain * x + offset` as one operator, a depthwise convolution of 1x1.

    MUL and ADD would be two. The range of the tensor between them was never
    trained.
    """
    coefficients = affine_coefficients(operation)
    if coefficients is None:
        return None
    gain, offset = (
        np.broadcast_to(values, (channels,)).astype(np.float32)
        for values in coefficients
    )

    def affine(inputs: Any) -> Any:
        shape = tuple(inputs.shape)
        is_image = len(shape) == 4
        flat = (
            inputs if is_image else ops.reshape(inputs, (1, -1, 1, shape[-1]))
        )
        kernel = gain.reshape(1, 1, -1, 1)
        result = ops.depthwise_conv(flat, kernel, data_format="channels_last")
        result = result + offset
        return result if is_image else ops.reshape(result, shape)

    return affine
