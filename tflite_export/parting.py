"""Finds the first layer where a file and its model compute different things.

Tensors are matched by their range, size and contents; their names in a file
point to other layers as often as not.
"""

import numpy as np

from codeq_keras.activation import ActivationRange
from tflite_export import interpreter
from tflite_export.flatbuffer import Flatbuffer
from tflite_export.graph import Tensor
from tflite_export.ranges import RangedModel
from tflite_export.representative import ModelInput

_NUM_SAMPLES = 8
# As for the outputs: the rest are ties that are rounded to different sides.
_MAX_DIFFERENT = 0.01
_SCALE_ROUNDING = 1e-5


def first_difference(
    file: Flatbuffer,
    model: RangedModel,
    inputs: list[ModelInput],
    samples: list[np.ndarray],
) -> str | None:
    """Returns the path of the first activation that differs.

    An activation differs if more than 1 % of its values are more than one step
    from those of the tensor of the file that is nearest to it.

    Args:
        file: The file.
        model: The model it was made from.
        inputs: The inputs of the model.
        samples: One array of shape `(n, ...)` per input; the first 8 are used.

    Returns:
        A path, or None if all activations that the file holds agree.
    """
    rows = [array[:_NUM_SAMPLES] for array in samples]
    computed = _file_activations(file, inputs, rows)
    for path, (values, held) in _model_activations(model, rows).items():
        same_range = [
            codes
            for tensor, codes in computed
            if codes.size == values.size
            and int(tensor.zero_points[0]) == held.zero_point
            and abs(tensor.scales[0] - held.scale)
            <= _SCALE_ROUNDING * held.scale
        ]
        expected = np.round(values.reshape(-1) / held.scale) + held.zero_point
        different = [
            float(np.mean(np.abs(codes - expected) > 1)) for codes in same_range
        ]
        if different and min(different) > _MAX_DIFFERENT:
            return path
    return None


def _file_activations(
    file: Flatbuffer, inputs: list[ModelInput], rows: list[np.ndarray]
) -> list[tuple[Tensor, np.ndarray]]:
    """All int8 tensors that the file computes, flat, as float64."""
    tensors = {
        index: file.tensor(0, index)
        for operator in file.operators
        if operator.subgraph == 0
        for index in operator.outputs
    }
    wanted = [
        index
        for index, tensor in tensors.items()
        if tensor.dtype == "int8" and tensor.scales.size == 1
    ]
    names = [spec.name for spec in inputs]
    quantized = interpreter.quantized_inputs(file, rows, names)
    results = interpreter.run(
        file.to_bytes(), quantized, reference_kernels=True, tensors=wanted
    )
    return [
        (tensors[index], codes.reshape(-1).astype(np.float64))
        for index, codes in results.items()
    ]


def _model_activations(
    model: RangedModel, rows: list[np.ndarray]
) -> dict[str, tuple[np.ndarray, ActivationRange]]:
    # Row by row: the model is written for a batch of 1, as the file is.
    parts = [
        model.activations(*(array[i : i + 1] for array in rows))
        for i in range(len(rows[0]))
    ]
    return {
        path: (np.concatenate([part[path][0] for part in parts]), held)
        for path, (_, held) in parts[0].items()
    }
