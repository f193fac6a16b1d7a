"""Reads a `tf_keras` model of TensorFlow Model Optimization for the export.

It brings its activation ranges along, so it needs no samples.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tflite_export.format.flatbuffer import Flatbuffer
from tflite_export.samples import ModelInput

if TYPE_CHECKING:
    from codeq_keras import QuantizedWeight

_NUM_RANDOM_INPUTS = 64


def is_tf_keras(model: Any) -> bool:
    """Whether `model` is one of `tf_keras`, which is not imported for that.

    Example:

    >>> is_tf_keras("model")
    False
    """
    tf_keras = sys.modules.get("tf_keras")
    return tf_keras is not None and isinstance(model, tf_keras.Model)


def weights(
    model: Any,
) -> tuple[Mapping[str, "QuantizedWeight"], dict[str, np.ndarray]]:
    """Returns the trained weights, and all kernels in the model's order.

    Args:
        model: A `tf_keras` model.

    Returns:
        The trained weights by path, and the codes of the trained kernels and
        values of the others, as `ordered_weights` has them.

    Raises:
        ValueError: If CoDeQ quantizes no kernel of it, or one on the grid
            `"paper"`.
    """
    from codeq_keras import tfmot

    trained = tfmot.quantized_weights(model)
    kernels = {
        kernel.path: trained[kernel.path].codes
        if kernel.path in trained
        else kernel.variable.numpy()
        for kernel in tfmot.QuantizedView(model).kernels
    }
    return trained, kernels


def random_inputs(
    file: Flatbuffer, inputs: list[ModelInput]
) -> list[np.ndarray]:
    """Returns inputs over the trained range of each input of a file.

    Args:
        file: The converted file.
        inputs: The inputs of the model.

    Returns:
        One array of shape `(64, ...)` for each input.
    """
    rng = np.random.default_rng(0)
    tensors = file.inputs()
    names = [spec.name for spec in inputs]
    if set(names) != set(tensors):
        names = list(tensors)
    arrays = []
    for name, spec in zip(names, inputs, strict=True):
        tensor = tensors[name]
        shape = (_NUM_RANDOM_INPUTS, *tensor.shape[1:])
        if tensor.scales.size:
            integers = rng.integers(-128, 128, shape)
            values = (integers - tensor.zero_points) * tensor.scales[0]
        else:
            values = np.zeros(shape)  # Tokens: 0 is in every vocabulary.
        arrays.append(values.astype(spec.dtype))
    return arrays
